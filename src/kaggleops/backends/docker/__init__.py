"""Commits in Kaggle's image on a machine with a container engine, one container for each run."""

from kaggleops.backends.docker.backend import DockerBackend

__all__ = ["DockerBackend"]
