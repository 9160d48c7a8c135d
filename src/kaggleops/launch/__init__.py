"""A run of a commit on this machine: its overrides, MLflow launched on a fresh clone, its page."""
