"""Commits as private notebooks on Kaggle, one slug for each run."""

from kaggleops.backends.kaggle.backend import KaggleBackend

__all__ = ["KaggleBackend"]
