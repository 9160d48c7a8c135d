"""Every command that takes a run takes its name, and the beginning of its id."""

import sys
from pathlib import Path

import click
import pytest

from kaggleops.bucket import open_bucket
from kaggleops.cli import GROUPS
from kaggleops.mlruns import ChangeLog, Entity, EntityStore, experiment, run
from kaggleops.mlruns.entity import META, dump_yaml
from tests.command import Done, kaggleops_here
from tests.mlruns.entities import run_meta

IDS = {
    "sassy-fox-12": "3f2a91c0" + "1" * 24,
    "calm-owl-7": "3f2a0000" + "2" * 24,
    "fold 0": "aaaa0000" + "3" * 24,
    "fold 0 again": "bbbb0000" + "4" * 24,
    "bee5": "cccc0000" + "5" * 24,
    "other": "bee50000" + "6" * 24,
}
NAMES = {"fold 0 again": "fold 0"}
COMMANDS = [
    command
    for commands in GROUPS.values()
    for command in commands
    if any(
        each.name in ("run", "runs") for each in command.params if isinstance(each, click.Argument)
    )
]
MORE = {"download": ["a folder"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket with runs, some of which are called alike."""
    folder = tmp_path_factory.mktemp("bucket")
    bucket = open_bucket(str(folder))
    bucket.prepare()
    store = EntityStore(bucket, ChangeLog(bucket))
    home = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}
    home["artifact_location"] = f"{bucket.artifact_uri}/artifacts/1"
    store.merge_in(Entity(experiment("1"), {META: dump_yaml(home)}))
    for what, run_id in IDS.items():
        meta = run_meta(
            artifact_uri=f"{bucket.artifact_uri}/artifacts/1/{run_id}/artifacts",
            run_id=run_id,
            run_uuid=run_id,
            run_name=NAMES.get(what, what),
        )
        store.merge_in(Entity(run("1", run_id), {META: dump_yaml(meta)}))
    store.close()
    return folder


def ask(place: Path, command: str, word: str) -> Done:
    more = MORE.get(command, [])
    return kaggleops_here(command, word, *more, "--bucket", place, cwd=place.parent)


@pytest.mark.parametrize("command", [each.name for each in COMMANDS])
def test_a_run_that_cannot_be_told_is_refused_with_what_may_be_meant(
    place: Path, command: str
) -> None:
    for word, told in {
        "sassy-fox": ["no run in", "Did you mean sassy-fox-12?"],
        "3f2": ["no run in", "at least 4 digits"],
        "3f2a": [IDS["sassy-fox-12"], IDS["calm-owl-7"]],
        "fold 0": [IDS["fold 0"], IDS["fold 0 again"]],
        "bee5": [IDS["bee5"], IDS["other"]],  # a name, and how an id begins
    }.items():
        done = ask(place, command, word)
        assert (done.code, [each for each in told if each not in done.error]) == (2, []), word


def test_these_are_all_commands_that_take_one() -> None:
    assert {each.name for each in COMMANDS} >= {
        *("status", "logs", "cancel", "resume", "download", "submit", "cleanup", "forget"),
    }


@pytest.mark.parametrize("word", ["calm-owl-7", "3f2a0", IDS["calm-owl-7"]])
def test_a_name_and_the_beginning_of_an_id_are_the_run(place: Path, word: str) -> None:
    (row,) = kaggleops_here("status", word, "--bucket", place, "--json").json["runs"]
    assert row["run_id"] == IDS["calm-owl-7"]
    refused = ask(place, "logs", word).error  # it was not submitted
    assert f"looking for run {word}: " in refused
    assert refused.endswith("Nothing is kept of what it printed.")
    assert IDS["calm-owl-7"] in kaggleops_here("reproduce", word, "--bucket", place).output


def test_a_run_that_the_index_has_not_heard_of_is_found(place: Path) -> None:
    assert ask(place, "status", "calm-owl-7").code == 0
    bucket = open_bucket(str(place))
    run_id = "dddd0000" + "7" * 24
    meta = run_meta(
        artifact_uri=f"{bucket.artifact_uri}/artifacts/1/{run_id}/artifacts",
        run_id=run_id,
        run_uuid=run_id,
        run_name="new",
    )
    EntityStore(bucket).merge_in(Entity(run("1", run_id), {META: dump_yaml(meta)}))  # unannounced
    assert ask(place, "status", "new").code == 0


def test_without_what_an_index_needs_an_id_may_be_short(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)  # as where only mlflow-skinny is
    (row,) = kaggleops_here("status", "3f2a0", "--bucket", place, "--json").json["runs"]
    assert row["run_id"] == IDS["calm-owl-7"]
    assert "Name one by its id" in ask(place, "status", "calm-owl-7").error
