"""The GitHub Action of docs/compare.md: its own commands, in the shell that GitHub runs them in."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from tests.reports.lab import Lab

PAGE = Path(__file__).parents[2] / "docs" / "compare.md"

GH = """#!{python}
import pathlib, sys
match sys.argv[1:]:
    case ["pr", "comment", number, "--edit-last", "--create-if-none", "--body-file", file]:
        print(f"on {{number}}: " + pathlib.Path(file).read_text())
    case _:
        sys.exit(f"gh does not know {{sys.argv[1:]}}")
"""


@pytest.fixture
def steps() -> list[dict[str, Any]]:
    """The action's steps, without the installation."""
    [block] = re.findall(r"```yaml\n(# .github.*?)```", PAGE.read_text(), re.DOTALL)
    action = yaml.safe_load(block)
    assert action["permissions"] == {
        "contents": "read",
        "pull-requests": "write",
        "id-token": "write",
    }
    found: list[dict[str, Any]] = action["jobs"]["compare"]["steps"]
    return [step for step in found if "run" in step and "pip install" not in step["run"]]


def commented(steps: list[dict[str, Any]], known: Mapping[str, str], where: Path) -> str:
    """Run the steps in a folder, and return what they comment on the pull request."""
    tools = where.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "gh").write_text(GH.format(python=sys.executable))
    (tools / "gh").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    output = ""
    for step in steps:
        assert "${{" not in step["run"]  # what a branch is called would be run as a command
        given = {
            name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: known[found[1]], value)
            for name, value in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=where,
            env={**os.environ, "PATH": path, **given},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        output += done.stdout
    return output


def test_a_branch_is_compared_with_where_it_goes(
    tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    lab = Lab(tmp_path)
    mlflow.set_tracking_uri(None)
    clone = tmp_path / "clone"
    git = ("git", "clone", "--quiet", "--branch", "idea", str(lab.repository.folder), str(clone))
    subprocess.run(git, check=True)
    known = {
        "github.base_ref": "main",
        "github.event.number": "7",
        "github.token": "token",
        "vars.BUCKET": str(lab.bucket),
    }
    comment = commented(steps, known, clone)
    assert comment.startswith(f"on 7: ### origin/main ({lab.worse[:10]}) and HEAD")
    assert "| jaccard |" in comment
    subprocess.run(["git", "switch", "--quiet", "--detach", lab.empty], cwd=clone, check=True)
    comment = commented(steps, known, clone)
    assert f"looking for runs of 'HEAD': commit {lab.empty[:10]} has none" in comment
    assert lab.base[:10] in comment  # the nearest one that has some
