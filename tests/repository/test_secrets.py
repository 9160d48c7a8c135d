"""No secret stands in the tree or anywhere in the history, where deleting it would not help.

Known by their shape, with Yelp's detect-secrets and the shapes that it lacks. Not by their entropy:
a repository full of hashes would have to keep a list of exceptions that nobody reads.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector

from tests.fakes.git_server import Repository
from tests.repository.test_packaging import ROOT, tracked

_BY_ENTROPY_OR_NAME = {
    "Base64HighEntropyString",
    "HexHighEntropyString",
    "IPPublicDetector",
    "KeywordDetector",
}
_SHORT = 10
"""Characters of a password in an address: a shorter one stands for one, as tests write it."""


class OfOurPlatforms(RegexBasedDetector):
    """The secrets that people of this project have, and detect-secrets does not know."""

    secret_type = "Google, Kaggle, RunPod, Hugging Face"
    denylist = (
        re.compile(r"AIza[\w-]{35}"),  # Google: an API key
        re.compile(r"ya29\.[\w-]{20,}"),  # an access token
        re.compile(r"1//0[\w-]{30,}"),  # a refresh token
        re.compile(r"GOCSPX-[\w-]{20,}"),  # an OAuth client's secret
        re.compile(r"KGAT_[0-9a-f]{32}"),  # Kaggle: a token
        re.compile(r'"key"\s*:\s*"[0-9a-f]{32}"'),  # kaggle.json
        re.compile(r"rpa_[A-Z0-9]{40,}"),  # RunPod
        re.compile(r"hf_[A-Za-z]{34}"),  # Hugging Face
    )


def secrets_in(lines: set[bytes]) -> set[str]:
    """Return what has the shape of a secret."""
    text = b"\n".join(lines).decode(errors="replace")
    detectors = [
        detector()
        for detector in (*get_mapping_from_secret_type_to_class().values(), OfOurPlatforms)
        if detector.__name__ not in _BY_ENTROPY_OR_NAME
    ]
    return {
        found
        for detector in detectors
        for found in detector.analyze_string(text)
        if not isinstance(detector, BasicAuthDetector) or len(found) > _SHORT
    }


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
    assert [each for each in planted if not secrets_in({each.encode()}) & found] == []
    assert "GOCSPX-" + "a1B2" * 6 in found
