"""`infra/terraform`: what can be said of it without Google's provider, which no registry here has.

With the provider, `terraform test` says the rest (infra/terraform/tests).
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

from kaggleops.server.settings import ask_for_passwords, server_folder
from tests.conftest import unavailable

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/terraform"
FILES = {path: hcl2.loads(path.read_text()) for path in sorted(FOLDER.glob("*.tf"))}
TESTS = {path: hcl2.loads(path.read_text()) for path in sorted(FOLDER.glob("tests/*.tftest.hcl"))}

# Of a type: whether it can carry labels, as Google's provider documents it.
LABELLED = {"google_storage_bucket", "google_compute_instance"}


def blocks(kind: str) -> dict[str, Any]:
    """Return the blocks of a kind in all files by their labels, joined by dots."""
    found: dict[str, Any] = {}
    for content in FILES.values():
        for block in content.get(kind, []):
            names = []
            while len(block) == 1 and next(iter(block)).startswith('"'):
                ((name, block),) = block.items()
                names.append(name.strip('"'))
            address = ".".join(names)
            assert address not in found or not address, f"{address} is there twice"
            found[address] = found.get(address, {}) | block
    return found


RESOURCES = blocks("resource")
VARIABLES = blocks("variable")
OUTPUTS = blocks("output")
LOCALS = {name: each for name, each in blocks("locals")[""].items() if not name.startswith("__")}


def texts(value: Any) -> Iterator[str]:
    """Yield all strings in a parsed value; comments are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name != "__comments__":
                yield from texts(each)


def text_of(value: Any) -> str:
    """Return all strings in a parsed value as one text."""
    return "\n".join(texts(value))


def terraform(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the real Terraform."""
    if shutil.which("terraform") is None:
        unavailable("there is no terraform")
    return subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments], capture_output=True, text=True, timeout=120
    )


def test_it_is_formatted() -> None:
    done = terraform("fmt", "-check", "-recursive", "-diff", folder=FOLDER)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: path.name)
def test_every_reference_leads_somewhere(path: Path) -> None:
    text = text_of({**FILES, **TESTS}[path])
    for name in re.findall(r"\bvar\.(\w+)", text):
        assert name in VARIABLES, name
    for name in re.findall(r"(?<!/)\blocal\.(\w+)", text):
        assert name in LOCALS, name
    for name in re.findall(r"\boutput\.(\w+)", text):
        assert name in OUTPUTS, name
    for address in re.findall(r"\b(google_\w+\.\w+)", text):
        assert address in RESOURCES, address
    for name in re.findall(r"file\(\\?\"\$\{path\.module\}/([^\"\\]+)", text):
        assert (FOLDER / name).is_file(), name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_what_may_be_missing_is_indexed(path: Path) -> None:
    """A resource with a count is a list: without an index Terraform refuses the whole plan."""
    for address, body in RESOURCES.items():
        for text in (text_of(FILES), text_of(TESTS[path])):
            for behind in re.findall(rf"\b{re.escape(address)}\b(.?)", text):
                if "count" in body:
                    assert behind in ("[", ")", ""), f"{address}{behind}"
                elif "for_each" not in body:
                    assert behind != "[", address


def test_nothing_is_unused() -> None:
    everything = text_of(FILES)
    for name in VARIABLES:
        assert f"var.{name}" in everything.replace(text_of(VARIABLES[name]), ""), name
    for name in LOCALS:
        assert f"local.{name}" in everything, name


def test_the_agreed_names_are_there() -> None:
    assert {"project", "region", "zone", "bucket", "name"} <= VARIABLES.keys()
    agreed = {"bucket", "runner_service_account", "server_service_account"}
    assert agreed | {"tunnel_command", "next_steps", "settings"} <= OUTPUTS.keys()
    for each in (*VARIABLES.values(), *OUTPUTS.values()):
        assert each["description"].strip('"')


def test_nothing_is_open_to_everybody() -> None:
    everything = text_of(FILES)
    for open_door in ("0.0.0.0/0", "::/0", "allUsers", "allAuthenticatedUsers"):
        assert open_door not in everything
    for address, body in RESOURCES.items():
        if address.startswith("google_compute_firewall"):
            (source,) = re.findall(r"(?:var|local)\.\w+", text_of(body["source_ranges"]))
            assert source in ("local.iap_range", "var.open_to")
            assert body["target_service_accounts"], address
    assert LOCALS["iap_range"].strip('"') == "35.235.240.0/20"
    # An external address stands behind a condition, and the machine is no default account.
    machine = RESOURCES["google_compute_instance.server"]
    (interface,) = machine["network_interface"]
    assert "access_config" not in interface
    ((_, dynamic),) = interface["dynamic"][0].items()
    assert "length(var.open_to) > 0" in dynamic["for_each"]
    assert "google_service_account.server" in machine["service_account"][0]["email"]


def test_the_bucket_keeps_what_it_should() -> None:
    bucket = RESOURCES["google_storage_bucket.runs"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == '"enforced"'
    assert bucket["versioning"][0]["enabled"] is True
    for rule in bucket["lifecycle_rule"]:
        (condition,) = rule["condition"]
        deletes = rule["action"][0]["type"] == '"Delete"'
        of_live_objects = not (
            {"days_since_noncurrent_time", "num_newer_versions"} & set(condition)
        )
        # No run and no artifact that is the newest of its name is ever deleted by a rule.
        if deletes and of_live_objects:
            assert condition["matches_prefix"] == ['"code/"']


def test_accounts_have_rights_in_the_bucket_only() -> None:
    in_buckets = [each for each in RESOURCES if each.startswith("google_storage_bucket_iam")]
    for each in in_buckets:
        if RESOURCES[each]["role"] == '"roles/storage.objectUser"':
            # A leaked key of a platform must not become root on the machine.
            assert RESOURCES[each]["condition"][0]["expression"] == "${local.not_releases}", each
        else:
            assert RESOURCES[each]["role"] == '"roles/storage.objectViewer"', each
    assert "!resource.name.startsWith(" in LOCALS["not_releases"]
    assert LOCALS["releases"].endswith('/objects/server/"')
    in_project = [each for each in RESOURCES if each.startswith("google_project_iam")]
    assert [RESOURCES[each]["role"] for each in in_project] == ['"roles/logging.logWriter"']
    for each in RESOURCES:
        if "_iam_" in each:
            # A binding or a policy would take away what others gave.
            assert each.split(".")[0].endswith("_iam_member"), each


def test_the_machine_is_within_the_free_tier_and_shielded() -> None:
    machine = RESOURCES["google_compute_instance.server"]
    assert machine["machine_type"] == '"e2-micro"'
    (disk,) = machine["boot_disk"][0]["initialize_params"]
    assert disk["type"] == '"pd-standard"'
    assert disk["size"] <= 30
    (shielded,) = machine["shielded_instance_config"]
    assert {value for name, value in shielded.items() if name.startswith("enable")} == {True}
    assert VARIABLES["region"]["default"].strip('"') in ("us-central1", "us-east1", "us-west1")


def test_everything_is_named_and_labelled() -> None:
    for address, body in RESOURCES.items():
        kind = address.split(".")[0]
        if kind in LABELLED:
            assert body["labels"] == "${local.labels}", address
        if kind.startswith("google_compute"):
            assert "var.name" in body["name"], address
    assert {"app", "stack"} <= LOCALS["labels"].keys()


def test_only_the_server_goes_without_a_server() -> None:
    stays = {
        each for each in RESOURCES if "server" not in text_of(RESOURCES[each].get("count", ""))
    }
    assert {each for each in stays if each.startswith("google_compute")} == set()
    assert "google_storage_bucket.runs" in stays
    assert "google_service_account.runner" in stays


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"open_to": ["0.0.0.0/0"]}, "256th of the internet"),
        ({"open_to": ["::/0"]}, "256th of the internet"),
        ({"open_to": ["example.com"]}, "256th of the internet"),
        ({"open_to": ["203.0.113.7/32", "2001:db8::/64"]}, "Each is an IPv4 range"),
        ({"index_secret": "an-index"}, "the machine reaches no database"),
        ({"network": "projects/a-project/global/networks/ours"}, "both network and subnetwork"),
        ({"users": ["allUsers"]}, "the public is none of them"),
        ({"bucket": "gs://a-bucket"}, "without gs://"),
        ({"name": "Kaggle Ops"}, "lower-case letters"),
    ],
)
def test_what_is_given_wrongly_is_refused(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    """By the real Terraform: variables need no provider."""
    done = planned(tmp_path, **wrong)
    assert done.returncode != 0
    assert said in " ".join(re.sub(r"[│╷╵]", " ", done.stderr).split())


@pytest.mark.parametrize(
    "right",
    [
        {"open_to": ["203.0.113.7/32", "198.51.100.0/24"], "users": ["user:ada@example.com"]},
        {"index_secret": "an-index", "nat": True},
        {"index_secret": "an-index", "network": "a-network", "subnetwork": "a-subnetwork"},
    ],
)
def test_what_is_given_rightly_is_taken(right: dict[str, Any], tmp_path: Path) -> None:
    done = planned(tmp_path, **right)
    assert done.returncode == 0, done.stderr


def test_every_service_that_is_asked_is_enabled() -> None:
    services = text_of(RESOURCES["google_project_service.api"]["for_each"])
    asked = {
        "google_storage": "storage",
        "google_service_account": "iam",
        "google_project_iam": "cloudresourcemanager",
        "google_compute": "compute",
        "google_iap": "iap",
        "google_secret_manager": "secretmanager",
    }
    for address in RESOURCES:
        for kind, service in asked.items():
            if address.startswith(kind):
                assert f'"{service}.googleapis.com"' in services, address


def test_the_first_password_is_where_the_output_says(state_folder: Path) -> None:
    ask_for_passwords(server_folder("gs://a-bucket"))
    unit = (ROOT / "infra/server/files/etc/systemd/system/kaggleops.service").read_text()
    assert "KAGGLEOPS_HOME=%S/kaggleops " in unit  # %S is /var/lib
    command = text_of(OUTPUTS["password_command"]["value"])
    found = re.search(r"-- sudo (grep [^\"]+) /var/lib/kaggleops/([^\" ]+)", command)
    assert found
    assert f"sudo {found[1]} /var/lib/kaggleops/{found[2]}" in (ROOT / "docs/cloud.md").read_text()
    shown = subprocess.run(
        [*found[1].split(), state_folder / found[2]], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]


def planned(folder: Path, **variables: Any) -> "subprocess.CompletedProcess[str]":
    """Plan the variables alone."""
    shutil.copy(FOLDER / "variables.tf", folder)
    given = {"project": "a-project", "bucket": "a-bucket", **variables}
    (folder / "terraform.tfvars.json").write_text(json.dumps(given))
    return terraform("plan", "-input=false", "-no-color", folder=folder)
