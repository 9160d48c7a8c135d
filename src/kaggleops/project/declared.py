"""What an entry point takes at a commit, read from git: there is no need for a checkout."""

from pathlib import Path
from typing import Any

import yaml

from kaggleops.project.git import _git


def declared_at(repository: Path, sha: str, entry_point: str) -> dict[str, Any] | None:
    """Return the parameters that an entry point declares at a commit, with their defaults.

    Args:
        repository: its folder.
        sha: the commit.
        entry_point: its name in the MLproject file.

    Returns:
        None for the default of one that must be given; None instead of all of them where the commit
        has no such entry point.
    """
    try:
        project = yaml.safe_load(_git(repository, "show", f"{sha}:MLproject", check=False))
        if not isinstance(project, dict):
            return None
        found = (project.get("entry_points") or {}).get(entry_point)
        if found is None:  # MLflow starts a script of that name then
            return {} if Path(entry_point).suffix in (".py", ".sh") else None
        parameters = (found.get("parameters") or {}).items()
    except (yaml.YAMLError, AttributeError):  # no YAML, or of another shape: nothing of it starts
        return None
    return {
        name: each.get("default") if isinstance(each, dict) else None for name, each in parameters
    }
