"""`kaggleops data add` and `push` leave the rest of the manifest as it was."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from kaggleops.bucket import Bucket, ConflictError
from kaggleops.cli import main
from kaggleops.errors import UsageError
from kaggleops.resources.edits import (
    add_entry,
    manifest_here,
    push,
)
from kaggleops.resources.manifest import MANIFEST, find_manifest
from kaggleops.resources.sync import fetch
from tests import secrets_of
from tests.buckets import EACH_KIND
from tests.canaries import marks_in

from .conftest import Project, fill

TEXT = """\
# What this project reads.

# The tweets, as Kaggle has them.
tweets:   # the training set
  source:   kaggle://competitions/tweets
  # only these
  files:
  - train.csv

# Words
words: {source: gs://b-1/words}
# the last
last:
    source: "gs://b-1/last"   # quoted

# Nothing below.
"""


@pytest.fixture
def path(project: Project) -> Path:
    path = project.folder / MANIFEST
    path.write_text(TEXT)
    return path


def test_adding_only_adds(path: Path) -> None:
    fields = {"source": "gs://b-1/é", "files": ["a", "*.csv"], "skip_if_exist": True, "commit": ""}
    manifest = add_entry(path, "new", fields)
    assert path.read_text().startswith(TEXT.rstrip() + "\n\nnew:\n  source: gs://b-1/é\n")
    new = find_manifest(path.parent)["new"]
    assert new == manifest["new"]
    assert (new.files, new.skip_if_exist) == (("a", "*.csv"), True)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n\n"])
def test_every_byte_stays(end: bytes, last: bytes, path: Path) -> None:
    before = (TEXT.rstrip().encode() + last).replace(b"\n", end)
    path.write_bytes(before)
    add_entry(path, "new", {"source": "gs://b-1/new"})
    after = path.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == after.count(end)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("words", {"source": "gs://b-1/x"}, "declaring words in .*: there is one already"),
        ("new", {"source": "gs://b-1/x", "destination": "data/words"}, "words.s.*--destination"),
        (
            "new",
            {"source": "gs://b-1/x", "destination": "../x"},
            "is not a folder for data in the project",
        ),
        ("new", {"source": "what"}, "'what' is not a source"),
    ],
)
def test_what_is_not_right_is_not_written(
    name: str, fields: dict[str, object], said: str, path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        add_entry(path, name, fields)
    assert path.read_text() == TEXT


def test_a_manifest_is_made_where_the_project_is(tmp_path: Path) -> None:
    (tmp_path / "project/.git").mkdir(parents=True)
    (tmp_path / "project/src").mkdir()
    made = manifest_here(tmp_path / "project/src")
    assert made == tmp_path / "project" / MANIFEST
    add_entry(made, "a", {"source": "gs://b-1/a"})
    assert made.read_text().startswith("# Every file from outside")


@EACH_KIND
def test_what_is_pushed_is_declared_and_is_what_comes(bucket: Bucket, project: Project) -> None:
    folder = project.folder / "out/exp7"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.csv").write_bytes(b"a\n")
    (folder / "b.bin").write_bytes(b"b" * 1000)
    path = project.folder / MANIFEST
    sent: list[int] = []
    locked = push(path, folder, f"{bucket.uri}/data/exp7", "exp7", "The 7th.", sent.append)
    assert (sent, len(locked.files), locked.size) == ([1002], 2, 1002)
    declared = yaml.safe_load(path.read_text())["exp7"]
    assert declared["destination"] == "out/exp7"
    assert declared["description"] == "The 7th."
    manifest = find_manifest(project.folder)
    assert fetch(manifest).right == 2
    (folder / "deep/a.csv").unlink()
    fetch(manifest)
    assert (folder / "deep/a.csv").read_bytes() == b"a\n"
    with pytest.raises(UsageError, match="declares exp7 already"):
        push(path, folder, f"{bucket.uri}/data/exp7", "exp7")
    path.write_text("")
    (folder / "b.bin").write_bytes(b"else")
    with pytest.raises(ConflictError, match="another file is there already"):
        push(path, folder, f"{bucket.uri}/data/exp7", "exp8")
    with pytest.raises(UsageError, match="there is no folder"):
        push(path, project.folder / "nothing", bucket.uri, "exp9")
    assert not find_manifest(project.folder).resources


def test_nothing_goes_before_its_entry_is_right(bucket: Bucket, project: Project) -> None:
    path = project.folder / MANIFEST
    path.write_text("words: {source: gs://b-1/words}\n")
    for folder in ("my data", "data/words/deep", "data/tweets"):
        (project.folder / folder).mkdir(parents=True)
        (project.folder / folder / "a").write_text("a")
    for folder, name, said in (
        ("my data", "my data", "'my data' is not a name"),
        ("data/words/deep", "deep", "deep is, or is in, words's"),
        ("data/words", "words-2", "data/words is, or is in, words's"),
    ):
        with pytest.raises(UsageError, match=said):
            push(path, project.folder / folder, f"{bucket.uri}/new", name)
    fill(bucket, new__sub__theirs=b"1")
    with pytest.raises(ConflictError, match="new holds other files, such as sub/theirs"):
        push(path, project.folder / "data/tweets", f"{bucket.uri}/new", "tweets")
    assert [entry.key for entry in bucket.list()] == ["new/sub/theirs"]
    assert list(find_manifest(project.folder).resources) == ["words"]


def test_what_has_secrets_in_it_is_pushed_only_if_told_to(
    bucket: Bucket, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.folder / "words"
    (folder / "conf").mkdir(parents=True)
    (folder / "train.csv").write_text("id,text\n1,my password is strong\n")
    (folder / "conf/kaggle.json").write_text(f"\n{secrets_of.KAGGLE_KEY}\n")
    (folder / "tokens.txt").write_bytes(f"HF={secrets_of.HUGGING_FACE_TOKEN}".encode("utf-16"))
    # Whatever a binary file holds is not read, however large it is.
    (folder / "weights.bin").write_bytes(bytes(9) + secrets_of.RUNPOD_KEY.encode())
    monkeypatch.chdir(project.folder)

    def push_words(*options: str) -> Result:
        return CliRunner().invoke(main, ["data", "push", "words", f"{bucket.uri}/w", *options])

    refused = push_words()
    assert refused.exit_code == 2
    where = "(conf/kaggle.json, line 2: Kaggle key; tokens.txt, line 1: Hugging Face token)"
    said = " ".join(refused.stderr.split())
    assert f"pushing words: there are secrets in it {where}. Take them out, or their files" in said
    assert marks_in(refused.output) == set()
    assert list(bucket.list()) == []
    assert not (project.folder / MANIFEST).exists()
    assert push_words("--allow-secrets").exit_code == 0
    assert {f"w/{each.relative_to(folder)}" for each in folder.rglob("*") if each.is_file()} <= {
        entry.key for entry in bucket.list()
    }


def test_the_commands(project: Project, bucket: Bucket) -> None:
    (project.folder / "words").mkdir()
    (project.folder / "words/a.txt").write_text("a")
    environment = {"MLFLOW_TRACKING_URI": f"{bucket.uri}/mlruns"}

    def data(*arguments: object) -> str:
        done = CliRunner(env=environment).invoke(main, ["data", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "declares tweets" in data("add", "tweets", "gs://b-1/tweets", "--file", "a.csv")
    assert f"to {bucket.uri}/data/words" in data("push", "words", "--description", "Words")
    assert list(find_manifest(project.folder).resources) == ["tweets", "words"]
    done = CliRunner().invoke(main, ["data", "add", "tweets", "gs://b-1/x"])
    assert done.exit_code == 2
    assert "there is one already. Delete the lines" in done.stderr
    done = CliRunner(env={"MLFLOW_TRACKING_URI": None}).invoke(main, ["data", "push", "words"])
    assert "Say where: kaggleops data push words gs://BUCKET/data/words" in done.stderr
