"""A Google Cloud project with a bucket and the runner's account, made by `gcloud`, or by Terraform.

Each step can be repeated: it first looks whether it was done, or does no harm when done twice.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import state_folder

TERRAFORM = Path("infra/terraform")
"""Where this project's own repository has the configuration for Terraform."""

_KEEP_CODE_DAYS = 180


class CommandFailedError(KaggleOpsError):
    """A program that was started for the user ended with an error."""


@dataclass(frozen=True)
class Place:
    """What is to be made.

    Args:
        project: the Google Cloud project's id.
        bucket: the bucket's name, without gs://.
        region: where it lies.
        name: what the accounts (and with Terraform the machine) are called.
    """

    project: str
    bucket: str
    region: str
    name: str

    @property
    def runner(self) -> str:
        """The email address of the runner's service account."""
        return f"{self.name}-runner@{self.project}.iam.gserviceaccount.com"


@dataclass(frozen=True)
class Step:
    """A command, and how to see that it is not needed any more.

    Args:
        about: what it makes.
        command: its words.
        done: the words of a command that prints something where that is there already; empty for
            a step that may be done twice.
        hint: what to do where it fails.
    """

    about: str
    command: Sequence[str]
    done: Sequence[str] = ()
    hint: str = ""

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


def gcloud_steps(place: Place) -> list[Step]:
    """Return the steps from a Google account to a bucket and an account that may use only it."""
    bucket, project = f"gs://{place.bucket}", f"--project={place.project}"
    billing = f"https://console.cloud.google.com/billing/linkedaccount?project={place.project}"
    return [
        _project(place),
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
             f"--lifecycle-file={_lifecycle_file()}"),
            ("gcloud", "storage", "buckets", "describe", bucket, "--format=value(name)"),
            f"A new project needs a billing account: {billing}",
        ),
        Step(
            "its old versions",
            ("gcloud", "storage", "buckets", "update", bucket, "--versioning"),
        ),
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
    return f'!resource.name.startsWith("projects/_/buckets/{place.bucket}/objects/server/")'


def terraform_steps(place: Place, folder: Path, *, ask: bool) -> list[Step]:
    """Return the steps of Terraform, after that for the project itself.

    Args:
        place: what to make.
        folder: where Terraform's configuration lies.
        ask: whether Terraform shows its plan and asks.
    """
    terraform = ("terraform", f"-chdir={folder}")
    wanted = {"project": place.project, "bucket": place.bucket, "region": place.region,
              "name": place.name}  # fmt: skip
    variables = [f"-var={name}={value}" for name, value in wanted.items()]
    approve = [] if ask else ["-input=false", "-auto-approve"]
    return [
        *([_project(place)] if shutil.which("gcloud") else []),
        Step("Terraform's providers", (*terraform, "init", "-input=false")),
        Step(
            f"everything in {folder}",
            (*terraform, "apply", *approve, *variables),
            hint="For a bucket that is there already, apply it with -var=create_bucket=false.",
        ),
    ]


def terraform_settings(folder: Path) -> dict[str, str]:
    """Return what Terraform made, as `config/local.yaml` names it.

    Raises:
        CommandFailedError: it failed.
    """
    printed = _run(("terraform", f"-chdir={folder}", "output", "-json"), "reading what was made")
    outputs = {name: each["value"] for name, each in json.loads(printed).items()}
    names = {"bucket": "bucket", "runner": "runner_service_account", "server": "server"}
    return {name: outputs[key] for name, key in names.items() if outputs.get(key)}


def is_done(step: Step) -> bool:
    """Tell whether what a step makes is there already."""
    if not step.done:
        return False
    _require(step.done[0])
    looked = subprocess.run(step.done, capture_output=True, text=True, check=False)
    return looked.returncode == 0 and bool(looked.stdout.strip())


def carry_out(step: Step, *, interactive: bool = False) -> None:
    """Carry a step out.

    Args:
        step: which.
        interactive: whether the program talks with the user itself.

    Raises:
        UsageError: the program is not installed.
        CommandFailedError: it failed.
    """
    doing = f"making {step.about}"
    if not interactive:
        _run(step.command, doing, step.hint)
        return
    _require(step.command[0])
    # What it shows is no result: stdout is for those.
    if subprocess.run(step.command, stdout=sys.stderr, check=False).returncode:
        raise CommandFailedError(doing, f"{step.command[0]} failed, see above", step.hint)


def _project(place: Place) -> Step:
    return Step(
        f"the project {place.project}",
        ("gcloud", "projects", "create", place.project),
        ("gcloud", "projects", "describe", place.project, "--format=value(projectId)"),
        "Ids are unique in the world: choose another one.",
    )


def _lifecycle_file() -> Path:
    """Return a file with what infra/terraform/bucket.tf says about what is deleted when."""
    rules = [
        _delete(["mlruns/"], numNewerVersions=10, daysSinceNoncurrentTime=1),
        _delete(["mlruns/"], daysSinceNoncurrentTime=30),
        _delete(["artifacts/", "code/", "server/"], daysSinceNoncurrentTime=1),
        _delete(["code/"], age=_KEEP_CODE_DAYS),
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}},
    ]
    file = state_folder() / "lifecycle.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"rule": rules}, indent=1))
    return file


def _delete(prefixes: list[str], **condition: int) -> Mapping[str, object]:
    return {"action": {"type": "Delete"}, "condition": {"matchesPrefix": prefixes, **condition}}


def _run(command: Sequence[str], doing: str, hint: str = "") -> str:
    _require(command[0])
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if "rror" in line), (lines or ["it said nothing"])[-1])
        raise CommandFailedError(doing, f"{command[0]}: {said}", hint)
    return done.stdout


_WHERE = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "terraform": "https://developer.hashicorp.com/terraform/install",
}


def _require(program: str) -> None:
    if shutil.which(program) is None:
        hint = f"Install it ({_WHERE[program]}), or use a folder: --bucket FOLDER."
        raise UsageError(f"starting {program}", "it is not on this machine", hint)
