"""The repository of the projects' tests, here too."""

from tests.project.conftest import toy

__all__ = ["toy"]
