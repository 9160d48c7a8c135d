"""Commits on Colab, in a session that this machine holds."""

from kaggleops.backends.colab.backend import ColabBackend

__all__ = ["ColabBackend"]
