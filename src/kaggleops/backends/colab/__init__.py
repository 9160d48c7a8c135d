"""Commits on Colab: a session that this machine holds, or an execution of Colab Enterprise's."""

from kaggleops.backends.colab.backend import ColabBackend

__all__ = ["ColabBackend"]
