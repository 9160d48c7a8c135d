"""Which folder below /kaggle/input is a resource's."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from kaggleops.resources.files import File, Placed
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import MANIFEST, parse_manifest
from kaggleops.resources.places import folder_for, mounted_at

from .conftest import Project

GEMMA = {"source": "kaggle://models/google/gemma/Transformers/2b/1"}
BERT = {"source": "kaggle://models/google/bert/tensorFlow2/base/1"}
ADAS = {"source": "kaggle://datasets/ada/embeddings"}
BOBS = {"source": "kaggle://datasets/bob/embeddings"}


@pytest.fixture
def on_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setenv("KAGGLEOPS_ROOT", str(tmp_path))


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("{}/transformers/2b/1", "models/google/{}/transformers/2b/1"),
        ("gemma/transformers/2b/{}", "models/google/gemma/transformers/2b/{}"),
    ],
)
def test_nothing_but_its_own_mount_is_a_models(
    short: str, full: str, tmp_path: Path, on_kaggle: None
) -> None:
    manifest = parse_manifest(json.dumps({"gemma-2b": GEMMA}), tmp_path / MANIFEST)
    content = File("a.bin", 3, "", f"sha256:{hashlib.sha256(b'abc').hexdigest()}")
    locked = Locked({}, "", (content,))

    def found() -> Path | None:
        return mounted_at(manifest["gemma-2b"], locked, manifest, Placed(tmp_path))

    right = "gemma" if short.startswith("{") else "1"
    for wrong in ("1", "bert/tensorflow2/base/1", short.format("9"), full.format("9"),
                  "models/ada/gemma/transformers/2b/1"):  # fmt: skip
        mount(tmp_path, wrong)
    assert found() is None
    for place in (short, full):
        made = mount(tmp_path, place.format(right))
        assert found() == made
        shutil.rmtree(made)


def mount(root: Path, place: str, content: bytes = b"abc") -> Path:
    folder = root / "kaggle/input" / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.bin").write_bytes(content)
    return folder


def test_two_datasets_with_one_name(project: Project, tmp_path: Path, on_kaggle: None) -> None:
    manifest = project.declare(a=ADAS, b=BOBS)

    def found(name: str, content: bytes) -> Path | None:
        file = File("a.bin", 3, "", f"sha256:{hashlib.sha256(content).hexdigest()}")
        return mounted_at(manifest[name], Locked({}, "", (file,)), manifest, Placed(tmp_path))

    only = mount(tmp_path, "embeddings", b"bob")
    assert (found("a", b"ada"), found("b", b"bob")) == (None, only)
    full = mount(tmp_path, "datasets/ada/embeddings", b"ada")
    assert (found("a", b"ada"), found("b", b"bob")) == (full, only)
    shutil.rmtree(only)
    assert (found("a", b"ada"), found("b", b"ada")) == (full, None)


def test_in_kaggles_image_each_has_a_folder_of_its_own(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kaggle/working").mkdir(parents=True)
    monkeypatch.setenv("KAGGLEOPS_ROOT", str(tmp_path))
    competition = {"source": "kaggle://competitions/tweets"}

    def folders(**entries: dict[str, str]) -> list[str]:
        manifest = project.declare(**entries)
        found = [folder_for(each, manifest) for each in manifest.resources.values()]
        return [folder.relative_to(tmp_path / "kaggle/input").as_posix() for folder in found]

    assert folders(x=GEMMA, y=BERT, z=ADAS, c=competition, g={"source": "gs://b-1/x"}) == [
        "gemma/transformers/2b/1", "bert/tensorflow2/base/1", "embeddings", "tweets", "g",
    ]  # fmt: skip
    assert folders(x=ADAS, y=BOBS, tweets={"source": "gs://b-1/x"}, c=competition) == [
        "datasets/ada/embeddings", "datasets/bob/embeddings", "tweets", "competitions/tweets",
    ]  # fmt: skip
    assert folders(x=ADAS, y=ADAS) == ["x", "y"]
