"""A Google Cloud project with a bucket and the runner's account, made by `gcloud` in steps.

Each step can be repeated: it first checks whether it was done, or does no harm when done twice.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.bucket.location import CLOUD_STORAGE
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import BESIDE_RUNS, CODE, MLRUNS, SERVER
from kaggleops.platforms.folders import state_folder, write_private


class CommandFailedError(KaggleOpsError):
    """A program that was started for the user ended with an error."""


@dataclass(frozen=True)
class Step:
    """A command, what it makes, and what to do where it fails.

    `done` is a command that prints something where that is there already; empty for a step that may
    be done twice.
    """

    about: str
    command: Sequence[str]
    done: Sequence[str] = ()
    hint: str = ""

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


def is_done(step: Step) -> bool:
    """Tell whether what a step makes is there already.

    Raises UsageError if its program is not installed.
    """
    return bool(step.done and (answer_of(step.done) or "").strip())


def answer_of(command: Sequence[str]) -> str | None:
    """Return what a command prints, None where it fails; UsageError if it is not installed."""
    done = _run(command)
    return None if done.returncode else done.stdout


def output_of(command: Sequence[str], doing: str, hint: str = "") -> str:
    """Return what a command prints; CommandFailedError with what it says if it fails.

    `hint` tells what to do then; where nobody is signed in, that is said instead. Raises UsageError
    if the program is not installed.
    """
    done = _run(command)
    if done.returncode:
        if sign_in := re.search(r"^\s*\$ (gcloud auth [a-z -]+)$", done.stderr, re.MULTILINE):
            hint = f"Sign in: {sign_in[1]}"
        raise CommandFailedError(doing, f"{command[0]}: {_message(done.stderr)}", hint)
    return done.stdout


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    if shutil.which(command[0]) is None:
        where = "https://cloud.google.com/sdk/docs/install"
        hint = f"Install it ({where}), or use a folder: --bucket FOLDER."
        raise UsageError(f"starting {command[0]}", "it is not on this machine", hint)
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _message(stderr: str) -> str:
    """Return the error in what a program wrote, without the advice and the details behind it."""
    lines = [line.strip() for line in stderr.splitlines()]
    begin = next((n for n, line in enumerate(lines) if re.match("error:", line, re.I)), None)
    if begin is None:
        return next((line for line in reversed(lines) if line), "it said nothing")
    said = []
    for line in lines[begin:]:
        if not line or re.match(r"Please run:|Usage:|Help Token:|- ", line):
            break
        said.append(line)
    return re.sub(r"(?i)^error:\s*(\(gcloud[\w.-]*\)\s*)?", "", " ".join(said))


_KEEP_CODE_DAYS = 180


@dataclass(frozen=True)
class Place:
    """What is to be made."""

    project: str  # the Google Cloud project's id
    bucket: str  # the bucket's name, without gs://
    region: str = "us-central1"  # where it lies
    name: str = "kaggleops"  # what the accounts are called
    prefix: str = ""  # where everything lies in it, with a slash behind it; "" for all of it

    @property
    def uri(self) -> str:
        """The bucket's address."""
        return CLOUD_STORAGE + self.bucket

    @property
    def runner(self) -> str:
        """The email address of the runner's service account."""
        return f"{self.name}-runner@{self.project}.iam.gserviceaccount.com"


def gcloud_steps(place: Place, *, foreign: bool = False) -> list[Step]:
    """Return the steps from a Google account to a bucket and an account that may use only it.

    A `foreign` bucket is somebody's own, and keeps its settings.
    """
    bucket, project = place.uri, f"--project={place.project}"
    versioning = Step(
        "its old versions", ("gcloud", "storage", "buckets", "update", bucket, "--versioning")
    )
    billing = f"https://console.cloud.google.com/billing/linkedaccount?project={place.project}"
    return [
        Step(
            f"the project {place.project}",
            ("gcloud", "projects", "create", place.project),
            ("gcloud", "projects", "describe", place.project, "--format=value(projectId)"),
            "Ids are unique in the world: choose another one.",
        ),
        Step(
            "its services",
            ("gcloud", "services", "enable", "storage.googleapis.com", "iam.googleapis.com",
             project),
            hint=f"A new project needs a billing account: {billing}",
        ),
        Step(
            f"the bucket {bucket}",
            ("gcloud", "storage", "buckets", "create", bucket, project,
             f"--location={place.region}", "--uniform-bucket-level-access",
             "--public-access-prevention", "--soft-delete-duration=7d",
             f"--lifecycle-file={_lifecycle_file(place)}"),
            ("gcloud", "storage", "buckets", "describe", bucket, "--format=value(name)"),
            f"A new project needs a billing account: {billing}",
        ),
        # Never without the rules of the step before: old versions would be kept for ever.
        *([] if foreign else [versioning]),
        Step(
            f"the account {place.runner}",
            ("gcloud", "iam", "service-accounts", "create", f"{place.name}-runner", project,
             f"--display-name=Runs of {place.name}: objects in {bucket}"),
            ("gcloud", "iam", "service-accounts", "describe", place.runner, project,
             "--format=value(email)"),
        ),
        Step(
            "its right to use the objects of this bucket, but for a server's releases",
            ("gcloud", "storage", "buckets", "add-iam-policy-binding", bucket,
             f"--member=serviceAccount:{place.runner}", "--role=roles/storage.objectUser",
             f"--condition=title=not_the_servers_releases,expression={_not_releases(place)}"),
            hint="A new account is known everywhere after a minute: run `kaggleops init` again.",
        ),
    ]  # fmt: skip


def _not_releases(place: Place) -> str:
    # A server installs, as root, what lies there: now there may be none, but one may come.
    objects = f"projects/_/buckets/{place.bucket}/objects/{place.prefix}"
    return f'!resource.name.startsWith("{objects}{SERVER}/")'


def what_it_lacks(place: Place) -> list[str] | None:
    """Return what a bucket of somebody's own has not, and one that is made here has.

    None for a bucket that is not there (or not to be seen), or that was made here. Raises
    UsageError if gcloud is not installed.
    """
    answer = answer_of(("gcloud", "storage", "buckets", "describe", place.uri, "--format=json"))
    if answer is None:
        return None
    found = json.loads(answer)
    rules = (found.get("lifecycle_config") or {}).get("rule", [])
    prefixes = {each for rule in rules for each in rule["condition"].get("matchesPrefix", [])}
    # A bucket that is made here has its rules from the beginning.
    if any(prefix.endswith(f"{MLRUNS}/") for prefix in prefixes):
        return None
    soft_delete = (found.get("soft_delete_policy") or {}).get("retentionDurationSeconds", 0)
    uniform = "uniform access (without which the account gets no right)"
    has = {
        uniform: found.get("uniform_bucket_level_access"),
        "public access prevention": found.get("public_access_prevention") == "enforced",
        "soft delete": int(soft_delete),
        "versioning": found.get("versioning_enabled"),
        "rules for old versions": rules,
    }
    return [name for name, there in has.items() if not there]


def _lifecycle_file(place: Place) -> Path:
    """Return a file with what infra/terraform/bucket.tf says about what is deleted when."""
    runs, code = [f"{place.prefix}{MLRUNS}/"], [f"{place.prefix}{CODE}/"]
    others = [f"{place.prefix}{each}/" for each in BESIDE_RUNS]
    rules = [
        _delete(matchesPrefix=runs, numNewerVersions=10, daysSinceNoncurrentTime=1),
        _delete(daysSinceNoncurrentTime=30),
        _delete(matchesPrefix=others, daysSinceNoncurrentTime=1),
        _delete(matchesPrefix=code, age=_KEEP_CODE_DAYS),
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}},
    ]
    file = state_folder() / "lifecycle.json"
    write_private(file, json.dumps({"rule": rules}, indent=1))
    return file


def _delete(**condition: int | list[str]) -> Mapping[str, object]:
    return {"action": {"type": "Delete"}, "condition": condition}
