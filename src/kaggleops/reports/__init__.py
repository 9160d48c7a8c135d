"""What a bucket says about itself: so far, what it costs."""
