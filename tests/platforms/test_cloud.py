"""`kaggleops init` makes the bucket and the runner's account, by gcloud."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import hcl2
import mlflow
import pytest
import yaml
from click.testing import CliRunner, Result

from kaggleops.cli import main
from kaggleops.layout import ARTIFACTS, LEFT_BY_JOBS
from kaggleops.platforms.cloud import Place, gcloud_steps
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository
from tests.fakes.programs import Programs

ROOT = Path(__file__).parents[2]
RUNNER = "kaggleops-runner@adas-runs.iam.gserviceaccount.com"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs(tmp_path)
    monkeypatch.setenv("PATH", f"{made.path}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def code(
    tmp_path: Path, gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Repository]:
    repository = Repository(tmp_path / "code")
    repository.write(train_py="print('training')")
    repository.commit("Train")
    monkeypatch.chdir(repository.folder)
    yield repository
    mlflow.set_tracking_uri(None)


def init(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["init", *arguments], input=answer)


def local_settings() -> Any:
    return yaml.safe_load(Path("config/local.yaml").read_text())


@pytest.mark.usefixtures("code")
def test_by_gcloud_with_every_step_repeatable(
    programs: Programs, gcs_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = ("--bucket", "gs://adas-bucket", "--project", "adas-runs", "--region", "us-east1")
    refused = init(*new, answer="n\n")
    assert refused.exit_code == 1
    assert "gcloud storage buckets create gs://adas-bucket" in refused.stderr
    assert programs.state("gcloud")["commands"] == []
    assert not Path("MLproject").exists()

    programs.sign_out()
    nobody = init(*new, "--yes").stderr.splitlines()[-1]
    assert "gcloud: You do not currently have an active account selected. " in nobody
    assert nobody.endswith("Sign in: gcloud auth login")
    programs.sign_in()

    details = "over 5 of 5\nfor this project.\nHelp Token: AeNz4P\n- '@type': google.rpc.ErrorInfo"
    programs.fail("gcloud", "storage buckets update", "Backend Error")
    assert init(*new, "--yes").exit_code == 1  # the bucket is there, without versions
    programs.fail("gcloud", "iam service-accounts create", f"Quota exceeded, {details}")
    broken = init(*new, "--yes")
    assert broken.exit_code == 1
    assert "gcloud: Quota exceeded, over 5 of 5 for this project.\n" in broken.stderr
    assert not Path("config/local.yaml").exists()

    done = init(*new, answer="y\n")
    assert done.exit_code == 0, done.stderr
    assert "the bucket gs://adas-bucket exists" in done.stderr
    state = programs.state("gcloud")
    assert state["projects"] == ["adas-runs"]
    assert state["accounts"] == [RUNNER]
    member = f"serviceAccount:{RUNNER}"
    [[bucket, who, role, condition]] = state["bindings"]
    assert (bucket, who, role) == ("adas-bucket", member, "roles/storage.objectUser")
    assert condition.partition("expression=")[2] == _condition_in_terraform("adas-bucket")
    assert state["buckets"]["adas-bucket"]["location"] == "us-east1"
    assert state["buckets"]["adas-bucket"]["versioning_enabled"]
    assert gcs_server.objects("adas-bucket") == {}
    assert local_settings() == {"bucket": "gs://adas-bucket", "runner": RUNNER}

    created = [each for each in state["commands"] if "create" in each]
    again = [init(*new, "--platform", "docker", "--yes", "--json") for _ in range(2)]
    assert len(programs.state("gcloud")["keys"]) == 1
    assert [each.exit_code for each in again] == [0, 0], again[0].stderr
    assert json.loads(again[1].stdout)["files"] == []
    state = programs.state("gcloud")
    later = [each for each in state["commands"] if "create" in each][len(created) :]
    assert [each.partition(" /")[0] for each in later] == ["iam service-accounts keys create"]


@pytest.mark.usefixtures("code")
def test_a_key_without_an_account_is_hinted_at_with_an_option_that_there_is(
    tmp_path: Path,
) -> None:
    done = init("--bucket", str(tmp_path / "bucket"), "--platform", "runpod", "--yes")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert (done.exit_code, "config/local.yaml" in line) == (2, True)
    options = {
        option
        for each in main.get_command(click.Context(main), "init").params
        for option in each.opts
    }
    assert set(re.findall(r"--[a-z]+", line)) == {"--project"} <= options


@pytest.mark.usefixtures("code")
def test_a_bucket_of_somebodys_own_keeps_its_settings(
    programs: Programs, gcs_server: GcsServer
) -> None:
    gcs_server.create_bucket("old-bucket")
    rules = [{"action": {"type": "Delete"}, "condition": {"age": 700}}]
    theirs = {"uniform_bucket_level_access": True, "lifecycle_config": {"rule": rules}}
    programs.remember("gcloud", buckets={"old-bucket": theirs}, projects=["adas-runs"])
    for _ in range(2):
        done = init("--bucket", "gs://old-bucket/runs", "--project", "adas-runs", "--yes")
        assert done.exit_code == 0, done.stderr
        lacks = "It lacks: public access prevention, soft delete, versioning\n"
        assert f"! gs://old-bucket existed before, and keeps its settings. {lacks}" in done.stderr
    state = programs.state("gcloud")
    assert state["buckets"] == {"old-bucket": theirs}
    [[_, _, _, condition]] = state["bindings"]
    assert condition.endswith('startsWith("projects/_/buckets/old-bucket/objects/runs/server/")')


def rules_of(place: Place) -> Any:
    """Return what gcloud is told about when what is deleted."""
    words = next(step.command for step in gcloud_steps(place) if "create" in step.command[3:4])
    file = next(word for word in words if word.startswith("--lifecycle-file="))
    return json.loads(Path(file.partition("=")[2]).read_text())["rule"]


def test_no_old_version_is_kept_for_ever() -> None:
    rules = rules_of(Place("adas-runs", "adas-bucket", "us-east1", "kaggleops", "some/prefix/"))
    conditions = [rule["condition"] for rule in rules]
    assert {"daysSinceNoncurrentTime": 30} in conditions  # whatever it is
    soon = next(each for each in conditions if len(each.get("matchesPrefix", ())) > 1)
    left = [place.partition("/")[0] for place in LEFT_BY_JOBS]
    for folder in (ARTIFACTS, "code", "server", "doctor", *left):
        assert f"some/prefix/{folder}/" in soon["matchesPrefix"]
    for each in conditions:
        for prefix in each.get("matchesPrefix", ()):
            assert prefix.startswith("some/prefix/")


def test_what_is_deleted_when_is_the_same_either_way() -> None:
    ours = rules_of(Place("adas-runs", "adas-bucket", "us-east1", "kaggleops"))
    with (ROOT / "infra/terraform/bucket.tf").open() as opened:
        (bucket,) = (
            each for each in hcl2.load(opened)["resource"] if '"google_storage_bucket"' in each
        )
    rules = bucket['"google_storage_bucket"']['"runs"']["lifecycle_rule"]
    assert ours == [_as_gcloud_has_it(rule) for rule in rules]


def _as_gcloud_has_it(rule: Any) -> dict[str, Any]:
    (condition,), (action,) = rule["condition"], rule["action"]
    with (ROOT / "infra/terraform/variables.tf").open() as opened:
        variables = {
            k.strip('"'): v for each in hcl2.load(opened)["variable"] for k, v in each.items()
        }
    found = {}
    for name, value in condition.items():
        if isinstance(value, str) and value.startswith("${var."):
            value = variables[value[6:-1]]["default"]
        elif isinstance(value, list):
            value = [each.strip('"') for each in value]
        first, *others = name.split("_")
        found[first + "".join(map(str.title, others))] = value
    found.pop("IsBlock")
    return {"action": {"type": action["type"].strip('"')}, "condition": found}


@pytest.mark.usefixtures("programs")
def test_a_bucket_that_is_there_is_used_as_it_is(code: Repository, gcs_server: GcsServer) -> None:
    (code.folder / "config").mkdir()
    Path("config/local.yaml").write_text("# mine\nbucket: old\nserver: x\n")
    gcs_server.create_bucket("our-bucket")
    done = init("--bucket", "gs://our-bucket", "--run", "--yes")
    assert done.exit_code == 0, done.stderr
    mlflow.set_tracking_uri("gs://our-bucket/mlruns")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("gs://our-bucket/artifacts/")
    assert run.data.tags["uncommitted"]  # the files that were just written are not committed
    assert "used as it is" in done.stderr
    assert "named old until now: runs go to gs://our-bucket instead" in done.stderr
    assert local_settings() == {"bucket": "gs://our-bucket", "server": "x"}
    assert Path("config/local.yaml").read_text().startswith("# mine\n")


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "none is named. Add --bucket"),
        (["--bucket", "gs://new-bucket"], "Add --project ID"),
        (["--bucket", "here", "--script", "fit.py"], "there is no fit.py"),
        (["--bucket", "gs://new-bucket", "--project", "adas-runs"], "it is not on this machine"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    assert git
    Path("only-git").mkdir()
    Path("only-git/git").symlink_to(git)
    monkeypatch.setenv("PATH", str(Path("only-git").absolute()))
    done = init(*arguments, "--yes")
    assert done.exit_code == 2
    assert problem in done.stderr
    assert not Path("MLproject").exists()


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: x\n[1,2", "config/local.yaml: line 2: "),
        ("- server", "it has no lines `name: value`"),
        ("{server: x}", "Write these there: bucket: bucket+file:"),
    ],
)
def test_settings_that_cannot_be_added_to_stay(text: str, problem: str) -> None:
    Path("config").mkdir()
    Path("config/local.yaml").write_text(text)
    done = init("--bucket", "here", "--yes")
    assert done.exit_code == 2
    assert problem in done.stderr
    assert Path("config/local.yaml").read_text() == text
    assert not Path("MLproject").exists()


def _condition_in_terraform(bucket: str) -> str:
    text = (ROOT / "infra/terraform/accounts.tf").read_text()
    [releases] = re.findall(r' releases += "(.*)"', text)
    [condition] = re.findall(r' not_releases += "(.*)"', text)
    filled = condition.replace("${local.releases}", releases).replace("${local.bucket}", bucket)
    return filled.replace('\\"', '"')
