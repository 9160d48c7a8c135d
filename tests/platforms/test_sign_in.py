"""Which credentials are found on each platform, in a process of its own there."""

import base64
import json
import re
import secrets
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaggleops.platforms import keys
from kaggleops.platforms.s3 import S3Keys
from tests import secrets_of
from tests.canaries import marks_in
from tests.fakes import platforms
from tests.fakes.gcs_server import GcsServer

SCRIPT = """
import os, sys
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms import detect
try:
    print(detect().sign_in(sys.argv[1]))
except KaggleOpsError as error:
    print("error:", error)
google = sys.argv[1].startswith("gs:")
variable = "GOOGLE_APPLICATION_CREDENTIALS" if google else "AWS_SHARED_CREDENTIALS_FILE"
print(os.environ.get(variable, ""))
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


S3 = "s3://our-bucket@acc.r2.cloudflarestorage.com/kaggle"
S3_LINES = (
    f"[default]\naws_access_key_id = {secrets_of.S3_KEY_ID}\n"
    f"aws_secret_access_key = {secrets_of.S3_SECRET}\nregion = auto\n"
)
"""An access key in the form of AWS's own file."""


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


# MLflow imports that module when it is imported itself: before a training reads its data.
READ = """
import kaggleops.tracking
import fsspec
if not fsspec.config.conf:
    raise SystemExit("as anybody's")
print(fsspec.open("gs://our-bucket/train.csv").open().read())
"""


@pytest.mark.usefixtures("cold_python")
@pytest.mark.parametrize("own", [False, True])
def test_gcsfs_takes_what_the_add_on_signed_in_with(
    tmp_path: Path, gcs_server: GcsServer, own: bool
) -> None:
    token = secrets.token_hex(16)
    gcs_server.create_bucket("our-bucket")
    gcs_server.put("our-bucket", "train.csv", b"text")
    gcs_server.fail(
        401,
        times=None,
        where=lambda asked: asked.headers.get("Authorization") != f"Bearer {token}",
    )
    environment = platforms.kaggle(
        tmp_path,
        {"the add-on's token": token},
        KAGGLE_KERNEL_INTEGRATIONS="GCS",
        STORAGE_EMULATOR_HOST=gcs_server.url,
        **({"GOOGLE_APPLICATION_CREDENTIALS": "/a/key.json"} if own else {}),
    )
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True
    )
    assert "as anybody's" in done.stderr if own else done.stdout == "b'text'\n", done.stderr


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


# -- buckets of other services --------------------------------------------------------------------


def assert_awss_clients_find_it(signed: Signed, root: Path, **more: str) -> None:
    script = "from botocore.session import Session as S; s = S(); c = s.get_credentials(); "
    script += "print(c.access_key, c.secret_key, s.get_config_variable('region'))"
    there = platforms.plain(root, AWS_SHARED_CREDENTIALS_FILE=str(signed.file), **more)
    done = subprocess.run(
        [sys.executable, "-c", script], env=there, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [secrets_of.S3_KEY_ID, secrets_of.S3_SECRET, "auto"]


@pytest.mark.parametrize("text", [secrets_of.S3_KEY, S3_LINES, S3_LINES.upper().lower()])
def test_each_way_of_writing_an_access_key_is_read(text: str) -> None:
    read = keys.key_in(text)
    assert read
    assert read["access_key_id"].lower() == secrets_of.S3_KEY_ID.lower()
    assert S3Keys.takes(read)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("AWS_ACCESS_KEY_ID=ab\nexport AWS_SECRET_ACCESS_KEY='c,d e'\n", "c,d e"),
        ('{"AccessKey": {\n "AccessKeyId": "ab",\n "SecretAccessKey": "c/d+e"\n}}', "c/d+e"),
        ('{"AccessKey": {"AccessKeyId": "ab", "SecretAccessKey": "c/d+e"}}', "c/d+e"),
        ('{"type": "s3", "access_key_id": "ab", "secret_access_key": "c}\\"d"}', 'c}"d'),
    ],
)
def test_what_services_print_is_an_access_key(text: str, secret: str) -> None:
    key = {"type": "s3", "access_key_id": "ab", "secret_access_key": secret}
    assert keys.key_in(text) == key
    assert keys.key_in(base64.b64encode(text.encode()).decode()) == key
    assert keys.key_in(S3Keys.for_clients(key)) == key


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "aws_access_key_id = ab", '{"type": "s3", "access_key_id": "ab"}',
     '{"type": "s3", "access_key_id": "ab", "secret_access_key": "c\\n[x]"}',
     '{"type": "s3", "access_key_id": 1, "secret_access_key": 2}'],
)  # fmt: skip
def test_half_an_access_key_is_none(text: str) -> None:
    assert keys.key_in(text) is None


@pytest.mark.parametrize("place", ["kaggle", "colab", "dataset", "runpod", "base64"])
def test_an_access_key_from_the_stores_of_each_platform(tmp_path: Path, place: str) -> None:
    secret, content = {"KAGGLEOPS_KEY": secrets_of.S3_KEY}, secrets_of.S3_KEY
    file = tmp_path / "kaggle/input/mine/kaggleops-key.json"
    environment, said = {
        "kaggle": lambda: (platforms.kaggle(tmp_path, secret), "Kaggle secret KAGGLEOPS_KEY"),
        "colab": lambda: (platforms.colab(tmp_path, secrets=secret), "Colab secret KAGGLEOPS_KEY"),
        "dataset": lambda: (platforms.kaggle(tmp_path), f"credentials dataset, {file}"),
        "runpod": lambda: (platforms.runpod(tmp_path, key=content), "RunPod secret KAGGLEOPS_KEY"),
        "base64": lambda: (
            platforms.runpod(tmp_path, key=base64.b64encode(content.encode()).decode()),
            "RunPod secret KAGGLEOPS_KEY",
        ),
    }[place]()
    if place == "dataset":
        file.parent.mkdir(parents=True)
        file.write_text(content)
    signed = sign_in(environment, S3)
    assert (signed.line, signed.left) == (f"the {said}", "")
    assert stat.S_IMODE(signed.file.stat().st_mode) == 0o600
    assert signed.file.is_relative_to(tmp_path / "root")
    assert keys_in_output(tmp_path, "kaggle/working") == []
    assert_awss_clients_find_it(signed, tmp_path)


def test_what_aws_has_there_comes_first(tmp_path: Path) -> None:
    secret = {"KAGGLEOPS_KEY": secrets_of.S3_KEY}
    named = {"AWS_ACCESS_KEY_ID": "ab", "AWS_SECRET_ACCESS_KEY": "of their own"}
    signed = sign_in(platforms.kaggle(tmp_path, secret, **named), S3)
    assert signed.line == "AWS_ACCESS_KEY_ID of the environment"
    folder = tmp_path / "root/.aws"
    folder.mkdir()
    (folder / "credentials").write_text(S3_LINES.replace("default", "r2"))
    line = sign_in(platforms.plain(tmp_path, AWS_PROFILE="r2"), S3).line
    assert line == "AWS credentials, profile r2 (shared-credentials-file)"
    (folder / "config").write_text(
        "[profile sso]\nsso_session = lab\nsso_account_id = 1\nsso_role_name = r\n"
        "[sso-session lab]\nsso_region = eu-west-1\nsso_start_url = https://lab.test\n"
    )
    line = sign_in(platforms.plain(tmp_path, AWS_PROFILE="sso"), S3).line
    assert line == "AWS credentials, profile sso (sso)"


def test_a_profile_that_is_not_there_is_named_and_gives_way_to_the_key(tmp_path: Path) -> None:
    environment = platforms.kaggle(tmp_path, AWS_PROFILE="r2")
    assert "The config profile (r2) could not be found" in sign_in(environment, S3).line
    environment |= platforms.kaggle(tmp_path, {"KAGGLEOPS_KEY": secrets_of.S3_KEY})
    script = SCRIPT + "print(os.environ.get('AWS_PROFILE'))"
    done = subprocess.run(
        [sys.executable, "-c", script, S3], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == "the Kaggle secret KAGGLEOPS_KEY"
    assert done.stdout.splitlines()[-1] == "None"


@pytest.mark.parametrize(
    ("bucket", "given", "takes"),
    [(S3, "SERVICE_ACCOUNT", "S3 access key"), ("gs://our-bucket", "S3_KEY", "key of Google's")],
)
def test_a_key_of_another_service_is_one_clear_line(
    tmp_path: Path, bucket: str, given: str, takes: str
) -> None:
    secret = {"KAGGLEOPS_KEY": getattr(secrets_of, given)}
    for environment in (
        platforms.kaggle(tmp_path, secret),
        platforms.runpod(tmp_path, key=secret["KAGGLEOPS_KEY"]),
    ):
        line = sign_in(environment, bucket).line
        assert line.startswith(f"error: signing in to reach {bucket}: ")
        assert f"KAGGLEOPS_KEY holds a key of another service, and no {takes}" in line


@pytest.mark.parametrize(
    ("platform", "says"),
    [
        ("kaggle", "(Add-ons > Secrets, called KAGGLEOPS_KEY), or"),
        ("colab", "Add one to Colab's secrets"),
        ("runpod", "RUNPOD_SECRET_kaggleops_key"),
        (
            "plain",
            "or write both into a profile of ~/.aws/credentials and name that in AWS_PROFILE.",
        ),
    ],
)
def test_without_an_access_key_it_says_what_to_do_there(
    tmp_path: Path, platform: str, says: str
) -> None:
    line = sign_in(getattr(platforms, platform)(tmp_path), S3).line
    assert line.startswith(f"error: signing in to reach {S3}: there are no credentials for it")
    assert says in line
    assert not re.search("google|gcloud", line, re.IGNORECASE)
    assert ("dash.cloudflare.com" in line) == (platform == "plain")
