"""A Google Cloud project with a bucket, its accounts and a server, made by Terraform."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.platforms.cloud import Place, project_step
from kaggleops.platforms.commands import Step, output_of

TERRAFORM = Path("infra/terraform")
"""Where this project's own repository has the configuration for Terraform."""

VARIABLES = "terraform.tfvars"
"""What one person's project is called; Terraform reads it, and git ignores it."""

_LINE = re.compile(r"^[ \t]*(\w+)[ \t]*=([^#\n]*)", re.MULTILINE)


def variables_of(folder: Path) -> dict[str, str]:
    """Return what the folder's terraform.tfvars sets, by the variables' names."""
    file = folder / VARIABLES
    found = _LINE.findall(file.read_text()) if file.is_file() else []
    return {name: value.strip().strip('"') for name, value in found}


def new_variables(place: Place, folder: Path) -> dict[str, str]:
    """Return what of a place the folder's terraform.tfvars does not say.

    Raises:
        UsageError: it says something else.
    """
    known = variables_of(folder)
    wanted = {name: getattr(place, name) for name in ("project", "bucket", "region", "name")}
    for name, value in wanted.items():
        if known.get(name, value) != value:
            problem = f"it has {name} = {known[name]}, and {value} is asked for"
            hint = f"Ask for {known[name]}, or change the file: Terraform then moves what it made."
            raise UsageError(f"reading {folder / VARIABLES}", problem, hint)
    return {name: value for name, value in wanted.items() if name not in known}


def keep_variables(variables: Mapping[str, str], folder: Path) -> None:
    """Add variables to terraform.tfvars, for whoever applies the configuration later."""
    file = folder / VARIABLES
    text = file.read_text() if file.is_file() else ""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in variables.items()]
    file.write_text(text + ("\n" if text and text[-1] != "\n" else "") + "".join(lines))


def terraform_steps(place: Place, folder: Path, *, ask: bool) -> list[Step]:
    """Return the steps of Terraform, after that for the project itself.

    Args:
        place: what to make; Terraform reads it in terraform.tfvars.
        folder: where Terraform's configuration lies.
        ask: whether Terraform shows its plan and asks.
    """
    terraform = ("terraform", f"-chdir={folder}")
    approve = [] if ask else ["-input=false", "-auto-approve"]
    return [
        *([project_step(place)] if shutil.which("gcloud") else []),
        Step("Terraform's providers", (*terraform, "init", "-input=false")),
        Step(
            f"everything in {folder}",
            (*terraform, "apply", *approve),
            hint=f"For a bucket that is there already, put create_bucket = false into {VARIABLES}.",
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
