"""A Google Cloud project with a bucket, its accounts and a server, made by Terraform."""

import json
import shutil
from pathlib import Path

from kaggleops.platforms.cloud import Place, project_step
from kaggleops.platforms.commands import Step, output_of

TERRAFORM = Path("infra/terraform")
"""Where this project's own repository has the configuration for Terraform."""


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
        *([project_step(place)] if shutil.which("gcloud") else []),
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
    command = ("terraform", f"-chdir={folder}", "output", "-json")
    printed = output_of(command, "reading what was made")
    outputs = {name: each["value"] for name, each in json.loads(printed).items()}
    names = {"bucket": "bucket", "runner": "runner_service_account", "server": "server"}
    return {name: outputs[key] for name, key in names.items() if outputs.get(key)}
