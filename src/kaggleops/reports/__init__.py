"""What the runs of a bucket tell: comparisons, a leaderboard, charts; and a check of the setup."""
