"""`kaggleops status` without a run: the index says which runs, the bucket how they are."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.campaign.sweep import Sweep
from kaggleops.cli.indexed import history_of
from kaggleops.mlruns import ChangeLog, Entity, EntityId, EntityStore, Notes, experiment, run
from kaggleops.mlruns.change_log import LOG_KEY
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.mlruns.liveness import RUN_STATUSES, look_at
from kaggleops.server.settings import default_index
from kaggleops.tags import (
    BACKEND,
    BRANCH,
    FAILURE,
    KEPT_UNTIL,
    PARENT,
    PRICE,
    SHORT_COMMIT,
    SWEEP,
    TO_BE_CONTINUED,
    TRIAL,
)
from tests.command import Done, kaggleops_here
from tests.fakes.gcs_server import GcsServer
from tests.mlruns.entities import run_meta

BUCKET = "gs://our-bucket"
DAY = 24.0  # hours


class World:
    """A bucket with runs of every kind, each called after what it is."""

    def __init__(self, server: GcsServer) -> None:
        server.create_bucket("our-bucket")
        self.server = server
        self.bucket = open_bucket(BUCKET, patience=5)
        self.store = EntityStore(self.bucket, ChangeLog(self.bucket))
        self.ids: dict[str, EntityId] = {}
        home = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}
        home["artifact_location"] = f"{BUCKET}/artifacts/1"
        self.store.merge_in(Entity(experiment("1"), {META: dump_yaml(home)}))
        self.add("live", promise=300)
        self.add("silent", hours=1, promise=300)
        self.add("lost", hours=5 * DAY, promise=300)
        self.add("lost long ago", hours=90 * DAY, promise=300)
        self.add("waiting", "SCHEDULED", hours=10 * DAY, tags={TO_BE_CONTINUED: "from step 5"})
        self.add("ended", "FINISHED", hours=1, tags={SHORT_COMMIT: "3f2a91c0", BACKEND: "kaggle"})
        self.add("ended long ago", "FINISHED", hours=90 * DAY)
        until = f"{time.time() + 3600}"
        self.add("kept", "FAILED", hours=90 * DAY, tags={KEPT_UNTIL: until, PRICE: "0.4"})
        self.add("kept long ago", "FAILED", hours=90 * DAY, tags={KEPT_UNTIL: "12"})
        self.add("without a home", home="2", promise=300)
        for name, hours in (("torn", 0.0), ("torn long ago", 90 * DAY)):
            self.ids[name] = run("1", f"{len(self.ids):032x}")
            self.bucket.write(self.ids[name].key, b"no archive", expected=ABSENT)
            server.age("our-bucket", self.ids[name].key, hours)

    def add(
        self,
        name: str,
        status: str = "RUNNING",
        *,
        hours: float = 0,
        promise: int = 0,
        home: str = "1",
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a run that was last written so many hours ago."""
        self.ids[name] = new = run(home, f"{len(self.ids):032x}")
        last = int((time.time() - 3600 * hours) * 1000)
        ended = status not in ("RUNNING", "SCHEDULED")
        meta = run_meta(
            artifact_uri=f"{BUCKET}/artifacts/{home}/{new.name}/artifacts",
            run_id=new.name,
            run_uuid=new.name,
            experiment_id=home,
            run_name=name,
            status=RUN_STATUSES.index(status),
            start_time=last - 1000,
            end_time=last if ended else None,
        )
        files = {f"tags/{tag}": value.encode() for tag, value in (tags or {}).items()}
        notes = Notes(heartbeat=last if promise else 0, promise=promise)
        self.store.announce([new])
        self.store.merge_in(Entity(new, {META: dump_yaml(meta), **files}, notes=notes))
        if ended:
            self.store.close()
        self.server.age("our-bucket", new.key, hours)

    def set_tag(self, name: str, tag: str, value: str) -> None:
        """Set a tag of a run, and leave its object as old as it is."""
        hours = (time.time() - self.bucket.stat(self.ids[name].key).updated_ms / 1000) / 3600
        stored = self.store.read(self.ids[name])
        files = {**stored.entity.files, f"tags/{tag}": value.encode()}
        entity = Entity(stored.entity.id, files, notes=stored.entity.notes)
        self.store.announce([entity.id])
        self.store.write(entity, expected=stored.version)
        self.server.age("our-bucket", entity.id.key, hours)

    def named(self, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The rows by what their runs are."""
        names = {each.name: name for name, each in self.ids.items()}
        return {names[row["run_id"]]: row for row in rows}

    def asked(self) -> Counter[str]:
        """What was asked of the bucket: how often each object, "" for a listing."""
        names = {each.key: name for name, each in self.ids.items()}
        return Counter(names.get(each.key or "", each.key or "") for each in self.server.requests)


@pytest.fixture
def world(gcs_server: GcsServer, empty_index: Path) -> World:
    here = Path(default_index(BUCKET).removeprefix("sqlite:///"))
    here.parent.mkdir(parents=True)
    shutil.copyfile(empty_index, here)
    return World(gcs_server)


def status(*arguments: object) -> Done:
    return kaggleops_here("status", *arguments, "--bucket", BUCKET, "--json")


SHOWN = {
    "live": "RUNNING",
    "silent": "LOST",
    "waiting": "SCHEDULED",
    "ended": "FINISHED",
    "kept": "FAILED",
    "torn": "UNREADABLE",
    "without a home": "RUNNING",
}


def test_it_shows_what_the_bucket_says(world: World) -> None:
    done = status()
    rows = world.named(done.json["runs"])
    assert {name: row["status"] for name, row in rows.items()} == SHOWN
    assert (done.code, world.ids["torn"].name in done.error) == (1, True)
    latest = [row["silent_seconds"] for row in done.json["runs"]]
    assert latest == sorted(latest)

    # Each as it is shown by its id, for which the bucket alone is asked.
    exact = world.named(status(*(world.ids[name].name for name in SHOWN)).json["runs"])
    for name, row in rows.items():
        differing = {key for key, value in row.items() if value != exact[name][key]}
        assert differing <= {"silent_seconds", "heard", "seconds"}, (name, differing)
    assert (rows["ended"]["commit"], rows["ended"]["backend"]) == ("3f2a91c0", "kaggle")
    assert rows["live"]["promised_seconds"] == 300
    assert rows["waiting"]["to_be_continued"] == "from step 5"

    week = world.named(status("--since", "7d").json["runs"])
    assert {name: row["status"] for name, row in week.items()} == {**SHOWN, "lost": "LOST"}
    everything = world.named(status("--since", "99999d").json["runs"])
    assert everything.keys() == world.ids.keys()


def test_it_asks_for_what_is_open_alone(world: World) -> None:
    world.bucket.delete(world.ids["without a home"].key)  # it waits, and is asked for again
    for number in range(30):
        world.add(f"old {number}", "FINISHED", hours=90 * DAY)
    status()
    world.server.reset_counts()
    assert len(status().json["runs"]) == len(SHOWN) - 1
    asked = world.asked()
    # One listing, which a bucket of more than a thousand objects is spared.
    assert asked.pop("") == 1
    assert asked.pop(LOG_KEY) == 1
    for name in ("live", "silent", "waiting"):
        assert asked.pop(name) == 1, name
    # What the index cannot hold is read.
    assert asked.keys() == {"torn", "torn long ago"}


def test_what_changes_after_the_index_was_read_is_read_again(world: World) -> None:
    now_ms = int(time.time() * 1000)
    with history_of(BUCKET, None) as history:
        _, known = history.recent(now_ms - 86_400_000, [])
    ids = {state.id: state for state in known}
    live, waiting, silent = (ids[world.ids[name]] for name in ("live", "waiting", "silent"))
    stored = world.store.read(live.id)
    assert stored is not None
    meta = {**stored.entity.meta, "status": RUN_STATUSES.index("FINISHED"), "end_time": now_ms}
    files = {META: dump_yaml(meta), "tags/backend": b"colab"}
    world.store.write(Entity(live.id, files), expected=stored.version)
    world.bucket.delete(waiting.id.key)
    ended, lost = look_at(world.store, [live, waiting, silent], now_ms)
    assert (ended.id, ended.status, ended.tags["backend"]) == (live.id, "FINISHED", "colab")
    assert (lost.id, lost.status) == (silent.id, "LOST")


def test_without_what_an_index_needs_the_bucket_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = world.named(status().json["runs"])
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)  # as where only mlflow-skinny is
    done = status()
    rows = world.named(done.json["runs"])
    # Its machine is kept, or it waits: what was not written for so long is not found by a listing.
    hidden = {"kept", "waiting"}
    # A listing goes from the experiments to their runs.
    assert rows.keys() == indexed.keys() - hidden - {"without a home"}
    assert all(rows[name]["status"] == SHOWN[name] for name in rows)


def test_it_is_kept_up_to_date_until_nothing_runs(world: World) -> None:
    words = ["status", world.ids["live"].name, "--watch", "--bucket", BUCKET]
    with subprocess.Popen(
        [sys.executable, "-m", "kaggleops", *words], stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert any("RUNNING" in line for line in watching.stdout)
        stored = world.store.read(world.ids["live"])
        assert stored is not None
        ended = {"status": RUN_STATUSES.index("FINISHED"), "end_time": int(time.time() * 1000)}
        files = {**stored.entity.files, META: dump_yaml({**stored.entity.meta, **ended})}
        world.store.write(Entity(stored.entity.id, files), expected=stored.version)
        assert "FINISHED" in watching.stdout.read()
    assert watching.returncode == 0
    assert "exclude each other" in status("--watch").error


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--running"], {"live", "silent", "waiting", "without a home"}),
        (["--failed"], {"silent", "kept", "torn"}),
        (
            ["--failed", "--running"],
            {"live", "silent", "waiting", "without a home", "kept", "torn"},
        ),
        (["-b", "kaggle"], {"ended"}),
        (["--branch", "idea"], {"silent"}),
        (["--since", "30m", "--failed"], {"kept", "torn"}),
        (["--since", "30m", "-b", "kaggle"], set()),
    ],
)
def test_it_shows_what_is_asked_for(world: World, options: list[str], shown: set[str]) -> None:
    world.set_tag("silent", BRANCH, "idea")
    assert world.named(status(*options).json["runs"]).keys() == shown


def test_runs_of_a_sweep_are_shown_where_they_are_asked_for(world: World) -> None:
    told = Sweep(axes=("lr=1,2",), backends=("kaggle",), trials=2).to_tag()
    world.add("a sweep", "SCHEDULED", tags={SWEEP: told})
    parent = world.ids["a sweep"].name
    world.add("trial 0", "FINISHED", hours=90 * DAY, tags={PARENT: parent, TRIAL: "0"})
    world.add("trial 1", "FAILED", tags={PARENT: parent, TRIAL: "1", FAILURE: "no luck"})
    trials = {"trial 0", "trial 1"}
    assert world.named(status("--sweep", "a sweep").json["runs"]).keys() == trials
    assert "trial 1" in world.named(status().json["runs"])
    listed = kaggleops_here("status", "--bucket", BUCKET, COLUMNS="200").output
    assert "sweep, 1 of 2 trials" in listed
    assert "And 1 run of sweeps: kaggleops status --sweep RUN" in listed
    assert "no luck" in kaggleops_here("status", "--failed", "--bucket", BUCKET).output


def test_a_time_that_is_none_is_refused() -> None:
    for wrong in ("soon", "7", "2026-13-01", "-1d", f"{'9' * 400}d"):
        done = kaggleops_here("status", f"--since={wrong}", "--bucket", BUCKET)
        assert (done.code, "is no time. Write 30m, 12h" in done.errors) == (2, True)


def test_whose_runs_are_to_be_forgotten_is_told_by_the_index(world: World) -> None:
    mine = {"mlflow.user": "ann"}
    world.add("hers", "FINISHED", tags=mine)
    world.add("hers, too, in a broken home", "FINISHED", home="2", tags=mine)
    status()
    world.server.reset_counts()
    done = kaggleops_here("forget", "--user", "ann", "--yes", "--bucket", BUCKET, "--json")
    assert done.code == 0, done.errors
    hers = {name for name in world.ids if name.startswith("hers")}
    assert set(done.json["runs"]) == {world.ids[name].name for name in hers}
    read = {each for each in world.asked() if each in world.ids}
    assert read == hers | {"torn", "torn long ago", "without a home"}
