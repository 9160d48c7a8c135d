"""A Google Cloud project with a bucket and the runner's account, made by `gcloud`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggleops.platforms.commands import Step
from kaggleops.platforms.folders import state_folder

_KEEP_CODE_DAYS = 180


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


def gcloud_steps(place: Place) -> list[Step]:
    """Return the steps from a Google account to a bucket and an account that may use only it."""
    bucket, project = f"gs://{place.bucket}", f"--project={place.project}"
    billing = f"https://console.cloud.google.com/billing/linkedaccount?project={place.project}"
    return [
        project_step(place),
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


def project_step(place: Place) -> Step:
    """Return the step that makes the project itself."""
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
