"""No secret stands in the tree or anywhere in the history, where deleting it would not help.

Found as `kaggleops run` and `kaggleops bundle` find them in what they send.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from kaggleops.secret_scan import in_file
from tests.fakes.git_server import Repository
from tests.repository.test_packaging import ROOT, tracked


def secrets_in(lines: set[bytes]) -> set[str]:
    """Return the lines with a secret in them."""
    ordered = sorted(lines)
    found = in_file("history", b"\n".join(ordered))
    return {ordered[each.line - 1].decode(errors="replace") for each in found}


def history_of(repository: Path) -> set[bytes]:
    """Return every line that any commit's message or file ever had."""

    def git(*arguments: str, told: bytes = b"") -> bytes:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, input=told, capture_output=True, check=True).stdout

    lines = set(git("log", "--all", "--format=%B").splitlines())
    objects = [line.split()[0] for line in git("rev-list", "--all", "--objects").splitlines()]
    for content in _contents(git("cat-file", "--batch", told=b"\n".join(objects) + b"\n")):
        lines.update(content.splitlines())
    return lines


def _contents(batch: bytes) -> Iterator[bytes]:
    """Yield the texts of `git cat-file --batch`."""
    at = 0
    while at < len(batch):
        end = batch.index(b"\n", at)
        _, kind, size = batch[at:end].split()
        at = end + 1 + int(size) + 1
        content = batch[end + 1 : at - 1]
        if kind == b"blob" and b"\0" not in content:
            yield content


def test_there_is_none_in_the_tree_or_in_the_history() -> None:
    tree = {line for path in tracked() for line in path.read_bytes().splitlines()}
    assert secrets_in(tree | history_of(ROOT)) == set()


def test_one_that_was_committed_and_deleted_again_is_found(tmp_path: Path) -> None:
    # Built here so that this file does not hold what it looks for.
    planted = [
        "AIza" + "Sy" + "a1B2" * 8 + "c",
        "ya29." + "a0B1" * 10,
        "KGAT_" + "0f" * 16,
        "rpa_" + "A1" * 20,
        "hf_" + "aB" * 17,
        "gh" + "p_" + "a1B2" * 9,
        "AKIA" + "Z1" * 8,
        "-----BEGIN " + "PRIVATE KEY-----",
        "postgresql://ada:" + "correct-horse" + "@db/runs",
        '{"username": "ada", "key": "' + "0f" * 16 + '"}',
    ]
    repository = Repository(tmp_path)
    (tmp_path / "notes.md").write_text("\n".join(planted))
    repository.commit("Add notes")
    (tmp_path / "notes.md").unlink()
    repository.commit("Remove them; the client's secret was GOCSPX-" + "a1B2" * 6)
    found = secrets_in(history_of(tmp_path))
    assert set(planted) <= found
    assert any("GOCSPX-" in line for line in found)
