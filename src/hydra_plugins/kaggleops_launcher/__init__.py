"""`hydra/launcher=kaggleops`: the jobs of people's own Hydra programs, wherever a sweep's go."""
