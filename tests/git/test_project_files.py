"""Which files of a commit its runs can use."""

from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.git.commits import between
from kaggleops.git.project_files import require_code, used_code
from tests.fakes.git_server import Repository

USED = {
    "src/competitions/train.py", "src/competitions/tweets/__init__.py", "src/stack/docs/page.py",
    "config/model/tiny.yaml", "config/task/tweets.yaml", "MLproject", "conda.yaml",
}  # fmt: skip
APART = {
    "docs/page.html", "tests/test_train.py", "notebooks/run.ipynb", "benchmarks/bench.py",
    "infra/main.tf", ".github/workflows/ci.yml", ".ci/run", ".devcontainer/devcontainer.json",
    "README.md", "src/competitions/README.md",
}  # fmt: skip
OTHERS = {
    "src/competitions/digits/__init__.py", "src/competitions/digits/deep/er.py",
    "src/competitions/faces.py", "config/task/digits.yaml", "config/task/faces.yaml",
}  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "code")


def commit(repository: Repository, text: str, mlproject: str = "name: tweets") -> str:
    """Change every file."""
    for name in USED | APART | OTHERS:
        file = repository.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (repository.folder / "MLproject").write_text(f"{mlproject}\n# {text}: tests/ has its tests.\n")
    return repository.commit(text)


def shown(repository: Repository, first: str, second: str, *tasks: str) -> set[str]:
    paths = used_code(repository.folder, (first, second), tasks)
    found = between(repository.folder, first, second, paths)
    assert found is not None
    return {name for name, _, _ in found.files}


def test_all_is_shown_but_what_no_entry_point_uses(repository: Repository) -> None:
    ends = commit(repository, "first"), commit(repository, "second")
    assert shown(repository, *ends, "tweets") == USED
    assert shown(repository, *ends) == USED | OTHERS  # whose runs they are nobody knows
    assert shown(repository, *ends, "tweets", "digits") == USED | {
        name for name in OTHERS if "digits" in name
    }


def test_what_an_entry_point_starts_is_shown_wherever_it_lies(repository: Repository) -> None:
    first = commit(repository, "first")
    second = commit(repository, "second", "command: python benchmarks/bench.py")
    assert shown(repository, first, second, "tweets") == USED | {"benchmarks/bench.py"}


def test_a_path_at_which_nothing_ever_lay_is_one_clear_line(repository: Repository) -> None:
    ends = commit(repository, "first"), commit(repository, "second")
    require_code(repository.folder, ends, ["src", "config/*.yaml", "infra/main.tf"])
    with pytest.raises(UsageError, match=r"the code at 'scr': neither .* has a file there"):
        require_code(repository.folder, ends, ["src", "scr"])
