"""`kaggleops credentials`: keys are made, replaced, listed and revoked, and never shown."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from kaggleops.platforms.keys import key_in
from kaggleops.platforms.s3 import S3Keys, policy
from tests import secrets_of
from tests.canaries import CommandLines, found_below, marks_in, open_to_others
from tests.command import Done, kaggleops, kaggleops_here
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.programs import Programs
from tests.fakes.s3_server import S3Server

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
        kaggle.fail(403, op="upload", times=None)
        assert somebody.credentials("create", "kaggle", **there).code == 1
        assert somebody.keys == []
        kaggle.heal()
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


@pytest.mark.parametrize("name", ["somebody", "at_home"])
def test_no_key_is_made_where_it_could_not_be_put(
    name: str, request: pytest.FixtureRequest
) -> None:
    whose = request.getfixturevalue(name)
    done = whose.credentials("create", "kaggle", KAGGLE_CONFIG_DIR=str(whose.folder))
    assert done.code == 2
    assert done.error.startswith("error: signing in to Kaggle")
    assert done.errors == f"{done.error}\n"  # and nobody is asked for one
    assert name == "at_home" or whose.gcloud.state("gcloud")["commands"] == []


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


# -- of an s3 bucket, made by hand ----------------------------------------------------------------

KEY = json.loads(secrets_of.S3_KEY)


@dataclass
class AtHome:
    """Somebody whose bucket is not Google's, with a new key of it in a file."""

    server: S3Server
    folder: Path
    bucket: str

    def credentials(self, *arguments: object, **more: str) -> Done:
        run = kaggleops if "kaggle" in arguments else kaggleops_here
        with CommandLines() as command_lines:
            done = run("credentials", *arguments, cwd=self.folder, **more)
        assert command_lines.found == {}
        assert marks_in(done.output + done.errors) == set()
        return done

    @property
    def kept(self) -> set[str]:
        """The objects of the bucket, but for what is known of its service."""
        objects = set(self.server.objects("runs"))
        return {key for key in objects if not key.endswith("conditions.json")}

    def found(self) -> set[str]:
        """The files that hold a key, but for the one that it is taken from."""
        files = found_below(self.folder / "home", self.folder / "temporary")
        assert open_to_others(self.folder / "home") == set()
        return {Path(file).name for file in files}


@pytest.fixture
def at_home(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AtHome:
    for name in ("config", "home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("KAGGLEOPS_KEY", raising=False)
    s3_server.create_bucket("runs")
    s3_server.add_key("a-key", "a-word")
    s3_server.add_key(KEY["access_key_id"], KEY["secret_access_key"], "runs", "kaggle/")
    bucket = s3_server.address("runs", "kaggle")
    (tmp_path / "config/local.yaml").write_text(f"bucket: {bucket}\n")
    (tmp_path / "key.json").write_text(secrets_of.S3_KEY)
    return AtHome(s3_server, tmp_path, bucket)


def test_an_access_key_from_its_taking_to_its_end(at_home: AtHome) -> None:
    done = at_home.credentials("create", "docker", "--from", "key.json", "--json")
    assert done.code == 0, done.errors
    assert (done.json["id"], done.json["account"]) == (KEY["access_key_id"], at_home.bucket)
    # As of R2, whose tokens know no exception.
    assert done.json["can_too_much"] == ["write to server/, from which a server installs"]
    file = Path(done.json["where"])
    assert key_in(file.read_text()) == KEY
    assert at_home.found() == {"kaggleops-key.json"}
    assert at_home.kept == set()

    listed = at_home.credentials("list", "--json").json
    assert [(key["id"], key["platform"]) for key in listed["keys"]] == [
        (KEY["access_key_id"], "docker")
    ]

    again = at_home.credentials("rotate", "docker", "--from", "key.json")
    assert "docker has that key already. Make one more" in again.error
    at_home.server.add_key("other-key", "of the same bucket", "runs", "kaggle/")
    lines = "AWS_ACCESS_KEY_ID=other-key\nAWS_SECRET_ACCESS_KEY=of the same bucket\n"
    (at_home.folder / "other.env").write_text(lines)
    rotated = at_home.credentials("rotate", "docker", "--from", "other.env")
    assert f"Now delete the key {KEY['access_key_id']}: until then" in rotated.errors
    assert "aws_access_key_id = other-key" in file.read_text()
    assert at_home.found() == set()

    revoked = at_home.credentials("revoke", "docker")
    assert f"Now delete the key other-key: until then it opens {at_home.bucket}." in revoked.output
    assert not file.exists()
    assert at_home.credentials("list").output == f"{at_home.bucket} has no keys.\n"


def test_an_access_key_as_a_private_dataset_and_for_a_pod(at_home: AtHome) -> None:
    with KaggleServer(at_home.folder / "kaggle") as kaggle:
        kaggle.add_user("ada")
        there = {
            name: value
            for name, value in kaggle.environment("ada").items()
            if name.startswith("KAGGLE_") or name in ("HTTP_PROXY", "NO_PROXY", "HOME")
        }
        done = at_home.credentials(
            "create", "kaggle", **there, KAGGLEOPS_KEY=(at_home.folder / "key.json").read_text()
        )
        assert done.code == 0, done.errors
        dataset = kaggle.dataset("ada/kaggleops-credentials")
        assert json.loads(dataset.versions[-1]["kaggleops-key.json"]) == KEY
        assert (dataset.private, at_home.found()) == (True, set())  # no copy stays here
        assert at_home.credentials("revoke", "kaggle", **there).code == 0
    done = at_home.credentials("create", "runpod", "--from", "key.json")
    assert "RUNPOD_SECRET_kaggleops_key" in done.output
    assert at_home.found() == {"kaggleops-key.base64"}
    (file,) = (at_home.folder / "home").rglob("*.base64")
    assert key_in(file.read_text()) == KEY
    done = at_home.credentials("create", "colab", "--from", "key.json")
    assert "runpod has that key already" in done.error


def test_what_an_access_key_can_do_beyond_its_work_is_one_warning(
    at_home: AtHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "before")
    at_home.server.fail(op="PutObject", then=lambda: os.environ.update(MINE="since then"))
    at_home.server.add_key("root", "may do everything")
    (at_home.folder / "root").write_text("access_key_id=root\nsecret_access_key=may do everything")
    done = at_home.credentials("create", "docker", "--from", "root", "--json")
    assert done.json["can_too_much"] == [
        "list the account's buckets",
        "write outside of kaggle/",
        "write to server/, from which a server installs",
    ]
    (line,) = [each for each in done.errors.splitlines() if each.startswith("!")]
    assert line.startswith("! The key can do more than a runner needs: list the account's buckets")
    assert at_home.kept == set()
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["MINE"]) == ("a-key", "since then")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "that is no S3 access key"),
        (secrets_of.SERVICE_ACCOUNT, "that is no S3 access key"),
        ("access_key_id=ab\nsecret_access_key=cd", "the access key was refused"),
        (secrets_of.S3_KEY.replace("cAnArY", "cAnaRy"), "the access key was refused"),
    ],
)
def test_an_access_key_that_does_not_work_is_put_nowhere(
    at_home: AtHome, text: str, said: str
) -> None:
    (at_home.folder / "key").write_text(text)
    assert said in at_home.credentials("create", "docker", "--from", "key").error
    assert at_home.found() == set()
    assert at_home.credentials("list").output.endswith("has no keys.\n")


def test_an_access_key_of_another_bucket_is_put_nowhere(at_home: AtHome) -> None:
    at_home.server.create_bucket("other")
    other = at_home.server.address("other")
    done = at_home.credentials("create", "docker", "--bucket", other, "--from", "key.json")
    assert "trying the key: Access Denied" in done.error
    assert at_home.found() == set()


def test_without_a_key_it_says_how_to_make_one(at_home: AtHome) -> None:
    done = at_home.credentials("create", "docker")
    assert "nobody is at a terminal. Pass it on: --from FILE, or KAGGLEOPS_KEY" in done.error
    assert f"A key of {at_home.bucket} is made at the service, not by this" in done.errors
    assert '"Resource": "arn:aws:s3:::runs/kaggle/*"' in done.errors
    done = at_home.credentials("create", "docker", "--account", RUNNER, "--from", "key.json")
    assert "Leave --from out" in done.error


def test_at_a_terminal_it_asks_and_shows_no_secret(at_home: AtHome) -> None:
    typed, terminal = os.openpty()
    command = [sys.executable, "-m", "kaggleops", "credentials", "create", "docker"]
    with subprocess.Popen(
        command, cwd=at_home.folder, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        for asked, answer in (
            (b"Access key id: ", KEY["access_key_id"]),
            (b"(not shown): ", KEY["secret_access_key"]),
            (b"docker run -v ", None),
        ):
            while asked not in shown:
                shown += os.read(typed, 1 << 16)
            if answer:
                os.write(typed, f"{answer}\n".encode())
        assert process.wait() == 0, shown
    os.close(typed)
    assert b"arn:aws:s3:::runs/kaggle/*" in shown
    assert marks_in(shown) == set()
    assert at_home.found() == {"kaggleops-key.json"}


@pytest.mark.parametrize(
    ("bucket", "says"),
    [
        ("s3://runs@0f.r2.cloudflarestorage.com/a", "apply to specific buckets only: runs."),
        ("s3://runs@0f.eu.r2.cloudflarestorage.com", "dash.cloudflare.com"),
        ("s3://runs", "console.aws.amazon.com/iam"),
        ("s3://runs@s3.eu-west-1.amazonaws.com", "arn:aws:s3:::runs/*"),
        ("s3+http://runs@localhost:9000", "mc admin user svcacct add"),
    ],
)
def test_each_service_has_its_steps(bucket: str, says: str) -> None:
    assert says in S3Keys(bucket).steps


def allowed(rules: dict[str, Any], action: str, resource: str) -> bool:
    """Tell as Amazon does (a denial counts more) whether a policy lets a key do something."""
    found = {
        each["Effect"]
        for each in rules["Statement"]
        if any(fnmatchcase(f"s3:{action}", one) for one in listed(each["Action"]))
        and fnmatchcase(f"arn:aws:s3:::{resource}", each["Resource"])
    }
    return found == {"Allow"}


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_policy_allows_a_runners_work_and_nothing_else() -> None:
    rules = policy("runs", "kaggle")
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
        assert allowed(rules, action, "runs/kaggle/mlruns/0/meta.tar.gz")
        assert not allowed(rules, action, "runs/other/mlruns/0/meta.tar.gz")
        assert not allowed(rules, action, "runs/kaggle/server/release.whl")
        assert not allowed(rules, action, "runs-of-others/kaggle/mlruns")
    assert allowed(rules, "ListBucket", "runs")
    for action in ("PutBucketPolicy", "DeleteBucket", "PutLifecycleConfiguration"):
        assert not allowed(rules, action, "runs")
    assert not allowed(rules, "PutObjectAcl", "runs/kaggle/a")
    assert allowed(policy("runs", ""), "PutObject", "runs/mlruns/a")
    assert not allowed(policy("runs", ""), "PutObject", "runs/server/a")
