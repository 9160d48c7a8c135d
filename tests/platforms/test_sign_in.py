"""Which credentials are found on each platform, in a process of its own there."""

import base64
import json
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import secrets_of
from tests.canaries import marks_in
from tests.fakes import platforms

SCRIPT = """
import os, sys
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms import detect
try:
    print(detect().sign_in(sys.argv[1]))
except KaggleOpsError as error:
    print("error:", error)
print(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", ""))
print(os.environ.get("KAGGLEOPS_KEY", ""))
"""


@pytest.fixture(params=["SERVICE_ACCOUNT", "AUTHORIZED_USER"])
def key(request: pytest.FixtureRequest) -> str:
    """Whatever kind of credentials a person has, each platform takes it."""
    return str(getattr(secrets_of, request.param))


@dataclass
class Signed:
    line: str
    """What it said."""
    file: Path
    """Where the credentials are now."""
    left: str
    """What of the key is left in the environment."""


def sign_in(environment: dict[str, str], bucket: str = "gs://our-bucket") -> Signed:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, bucket], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert marks_in(done.stdout + done.stderr) == set()
    line, file, left = done.stdout.split("\n")[:3]
    return Signed(line, Path(file), left)


def keys_in_output(root: Path, folder: str) -> list[Path]:
    return [path for path in (root / folder).rglob("*") if path.is_file()]


def assert_kept_privately(signed: Signed, key: str, root: Path) -> None:
    assert json.loads(signed.file.read_text()) == json.loads(key)
    assert stat.S_IMODE(signed.file.stat().st_mode) == 0o600
    assert signed.file.is_relative_to(root / "root")


def test_what_is_there_already_comes_first(tmp_path: Path, key: str) -> None:
    named = tmp_path / "key.json"
    named.write_text(key)
    environment = platforms.kaggle(
        tmp_path, {"KAGGLEOPS_KEY": key}, GOOGLE_APPLICATION_CREDENTIALS=str(named)
    ) | {"KAGGLEOPS_KEY": key}
    signed = sign_in(environment)
    assert signed.line.startswith("application-default credentials, ")
    assert (signed.file, signed.left) == (named, "")


def test_gclouds_own(tmp_path: Path, key: str) -> None:
    file = tmp_path / "root/.config/gcloud/application_default_credentials.json"
    environment = platforms.plain(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(key)
    assert sign_in(environment).line == "application-default credentials of gcloud"


def test_on_colab_enterprise_nobody_has_to_sign_in(tmp_path: Path) -> None:
    environment = platforms.colab(tmp_path, VERTEX_PRODUCT="COLAB_ENTERPRISE")
    assert sign_in(environment).line == "the service account of Colab Enterprise"


def test_colabs_sign_in(tmp_path: Path, key: str) -> None:
    assert sign_in(platforms.colab(tmp_path, key=key)).line == "Colab's sign-in"


def test_a_kaggle_secret(tmp_path: Path, key: str) -> None:
    signed = sign_in(platforms.kaggle(tmp_path, {"KAGGLEOPS_KEY": key}))
    assert signed.line == "the Kaggle secret KAGGLEOPS_KEY"
    assert_kept_privately(signed, key, tmp_path)
    assert keys_in_output(tmp_path, "kaggle") == []


def test_kaggles_cloud_sdk_add_on(tmp_path: Path, key: str) -> None:
    signed = sign_in(platforms.kaggle(tmp_path, {"__gcloud_sdk_auth__": key}))
    assert signed.line == "Kaggle's Cloud SDK add-on"
    assert_kept_privately(signed, key, tmp_path)


CONNECT = """
from kaggleops.bucket.gcs_client import connect
from kaggleops.platforms import detect
print(detect().sign_in("gs://our-bucket"))
ours = connect()
from google.cloud import storage
theirs = storage.Client(project="theirs")
print(type(ours._credentials).__name__)
print(type(theirs._credentials).__name__)
"""


@pytest.mark.parametrize(
    ("add_on", "own", "said", "ours", "theirs", "waits"),
    [
        ("", True, "the Kaggle secret KAGGLEOPS_KEY", "Credentials", "Credentials", False),
        ("BIGQUERY:CLOUDAI", True, "the Kaggle secret", "Credentials", "Credentials", False),
        # Where the add-on is on, a person's own clients count on it.
        ("BIGQUERY:GCS", True, "the Kaggle secret", "Credentials", "KaggleKernel", True),
        ("GCS", False, "Kaggle's Cloud Storage add-on", "KaggleKernel", "KaggleKernel", True),
    ],
)
def test_the_hook_of_kaggles_image_is_passed_where_it_hands_out_nothing(
    tmp_path: Path, add_on: str, own: bool, said: str, ours: str, theirs: str, waits: bool
) -> None:
    secrets = {"KAGGLEOPS_KEY": secrets_of.AUTHORIZED_USER} if own else {}
    environment = platforms.kaggle(tmp_path, secrets, KAGGLE_KERNEL_INTEGRATIONS=add_on)
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line, expected in zip(done.stdout.splitlines(), (said, ours, theirs), strict=True):
        assert line.startswith(expected)
    assert (tmp_path / "hooked").exists() == waits


@pytest.mark.parametrize("mount", ["my-credentials", "datasets/ada/my-credentials"])
def test_a_dataset_wherever_kaggle_mounts_it(tmp_path: Path, key: str, mount: str) -> None:
    file = tmp_path / "kaggle/input" / mount / "kaggleops-key.json"
    file.parent.mkdir(parents=True)
    file.write_text(key)
    signed = sign_in(platforms.kaggle(tmp_path))
    assert signed.line == f"the credentials dataset, {file}"
    assert_kept_privately(signed, key, tmp_path)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_secret_of_runpod_which_no_child_inherits(
    tmp_path: Path, key: str, encoded: bool
) -> None:
    content = base64.b64encode(key.encode()).decode() if encoded else key
    signed = sign_in(platforms.runpod(tmp_path, key=content))
    assert signed.line == "the RunPod secret KAGGLEOPS_KEY"
    assert signed.left == ""
    assert_kept_privately(signed, key, tmp_path)


def test_a_folder_needs_none(tmp_path: Path) -> None:
    assert "none needed" in sign_in(platforms.plain(tmp_path), "bucket+file:///b").line


@pytest.mark.parametrize(
    ("platform", "says"),
    [
        ("kaggle", "Add-ons > Secrets"),
        ("colab", "complete the sign-in"),
        ("runpod", "RUNPOD_SECRET_kaggleops_key"),
        ("plain", "gcloud auth application-default login"),
    ],
)
def test_without_any_it_says_what_to_do_there(tmp_path: Path, platform: str, says: str) -> None:
    line = sign_in(getattr(platforms, platform)(tmp_path)).line
    assert line.startswith("error: signing in to reach gs://our-bucket: ")
    assert says in line


def test_a_broken_way_is_named_and_the_next_one_used(tmp_path: Path, key: str) -> None:
    environment = platforms.kaggle(tmp_path, {"KAGGLEOPS_KEY": secrets_of.SERVICE_ACCOUNT[:-9]})
    line = sign_in(environment).line
    assert "KAGGLEOPS_KEY holds no key of Google's" in line
    (tmp_path / "secrets.json").unlink()  # no internet
    line = sign_in(environment).line
    assert "Connection error trying to communicate with service" in line
    file = tmp_path / "kaggle/input/mine/kaggleops-key.json"
    file.parent.mkdir()
    file.write_text(key)
    assert sign_in(environment).line == f"the credentials dataset, {file}"
