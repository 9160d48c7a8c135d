"""`kaggleops credentials`: keys are made, replaced, listed and revoked, and never shown."""

import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Done, kaggleops, kaggleops_here
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.programs import Programs

RUNNER = "runner@project.iam.gserviceaccount.com"
MARK = "BEGIN canary 0"  # in every key that is made


@dataclass
class Somebody:
    """Who runs the command, signed in with gcloud."""

    gcloud: Programs
    folder: Path

    def credentials(self, *arguments: object, **more: str) -> Done:
        # Kaggle's client keeps what it once found in its environment.
        run = kaggleops if "kaggle" in arguments else kaggleops_here
        done = run("credentials", *arguments, cwd=self.folder, **more)
        assert MARK not in done.output + done.errors
        return done

    @property
    def keys(self) -> list[str]:
        return list(self.gcloud.state("gcloud").get("keys", {}))

    @property
    def files(self) -> dict[str, Path]:
        """The files on this machine that hold a key, by name."""
        folders = (self.folder / "home", self.folder / "temporary")
        found = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return {file.name: file for file in found if MARK.encode() in file.read_bytes()}


@pytest.fixture
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Somebody:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/local.yaml").write_text(f"runner: {RUNNER}\n")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    gcloud = Programs(tmp_path)
    gcloud.remember("gcloud", accounts=[RUNNER])
    monkeypatch.setenv("PATH", f"{gcloud.path}:{os.environ['PATH']}")
    return Somebody(gcloud, tmp_path)


def test_a_file_for_docker_from_its_making_to_its_end(somebody: Somebody) -> None:
    done = somebody.credentials("create", "docker", "--json")
    assert done.code == 0, done.errors
    (first,) = somebody.keys
    file = Path(done.json["where"])
    assert done.json["id"] == first
    assert json.loads(file.read_text())["private_key_id"] == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    again = somebody.credentials("create", "docker")
    assert again.code == 2
    assert "kaggleops credentials rotate docker" in again.error

    assert somebody.credentials("rotate", "docker").code == 0
    (second,) = somebody.keys
    assert second != first
    assert json.loads(file.read_text())["private_key_id"] == second

    listed = somebody.credentials("list", "--json").json
    assert [(key["id"], key["platform"]) for key in listed["keys"]] == [(second, "docker")]

    assert somebody.credentials("revoke", "docker").code == 0
    assert somebody.keys == []
    assert somebody.files == {}


def test_a_private_dataset_on_kaggle(somebody: Somebody, tmp_path: Path) -> None:
    with KaggleServer(tmp_path / "kaggle") as kaggle:
        kaggle.add_user("ada")
        there = {
            name: value
            for name, value in kaggle.environment("ada").items()
            if name.startswith("KAGGLE_") or name in ("HTTP_PROXY", "NO_PROXY", "HOME")
        }
        done = somebody.credentials("create", "kaggle", **there)
        assert done.code == 0, done.errors
        dataset = kaggle.dataset("ada/kaggleops-credentials")
        assert dataset.private
        assert somebody.keys[0].encode() in dataset.versions[-1]["kaggleops-key.json"]
        assert somebody.credentials("rotate", "kaggle", **there).code == 0
        (key,) = somebody.keys
        dataset = kaggle.dataset("ada/kaggleops-credentials")
        assert key.encode() in dataset.versions[-1]["kaggleops-key.json"]
        assert somebody.files == {}  # no copy stays on this machine
        done = somebody.credentials("revoke", "kaggle", **there)
        assert done.code == 0, done.errors
        assert somebody.keys == []
        with pytest.raises(KeyError):
            kaggle.dataset("ada/kaggleops-credentials")


def test_a_key_that_could_not_be_put_there_is_deleted(somebody: Somebody) -> None:
    done = somebody.credentials("create", "kaggle", KAGGLE_CONFIG_DIR=str(somebody.folder))
    assert done.code == 2
    assert "signing in to Kaggle" in done.error
    assert somebody.keys == []


def test_a_secret_to_paste_into_runpod(somebody: Somebody) -> None:
    done = somebody.credentials("create", "runpod")
    assert "RUNPOD_SECRET_kaggleops_key" in done.output
    (key,) = somebody.keys
    assert somebody.credentials("revoke", key).code == 0
    assert not list((somebody.folder / "home").rglob("*.base64"))


def test_a_key_that_is_gone_already_is_as_good_as_deleted(somebody: Somebody) -> None:
    assert somebody.credentials("create", "docker").code == 0
    somebody.gcloud.remember("gcloud", keys={})
    assert somebody.credentials("revoke", "docker").code == 0
    assert somebody.files == {}


def test_bad_input_is_one_clear_line(somebody: Somebody) -> None:
    other = "nobody@project.iam.gserviceaccount.com"
    done = somebody.credentials("list", "--account", other)
    assert "Unknown service account. This command" in done.error
    assert f"Is {other} the right account?" in done.error
    assert "no such key" in somebody.credentials("revoke", "0123").error
    denied = "PERMISSION_DENIED: Permission 'iam.serviceAccountKeys.create' denied."
    somebody.gcloud.fail("gcloud", "iam service-accounts keys create", denied)
    done = somebody.credentials("create", "docker")
    assert "roles/iam.serviceAccountKeyAdmin" in done.error
    somebody.gcloud.sign_out()
    done = somebody.credentials("list")
    assert "Sign in: gcloud auth login" in done.error
    done = somebody.credentials("list", PATH=str(somebody.folder))
    assert "starting gcloud: it is not on this machine" in done.error
