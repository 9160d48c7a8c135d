"""The repository of the projects' tests, here too."""

from tests.launch.conftest import toy

__all__ = ["toy"]
