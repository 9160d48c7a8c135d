"""What `kaggleops cost` says of a bucket."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.cli import main
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore, run
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.reports.cost import Usage, charges, usage
from kaggleops.reports.operations import (
    IDLE_LOOK_SECONDS,
    MONTH,
    WATCHED_LOOK_SECONDS,
    Operations,
    of_idle_server,
    of_run,
)
from kaggleops.reports.plan import SERVERS, Run, month
from kaggleops.reports.prices import CLOUD_STORAGE, GIB
from tests.command import kaggleops
from tests.mlruns.entities import run_meta

HOUR = 3600.0


def put_run(bucket: Bucket, number: int, *, age: float, points: int = 0) -> EntityId:
    """Write a run of one hour that ended so many seconds ago, with its points a minute apart."""
    entity_id = run("1", f"{number:032x}")
    start = int((time.time() - age - HOUR) * 1000)
    meta = run_meta(
        run_id=entity_id.name,
        run_uuid=entity_id.name,
        status=3,
        start_time=start,
        end_time=start + int(HOUR * 1000),
    )
    lines = [f"{start + 60_000 * each} 0.5 {each}\n".encode() for each in range(1, points + 1)]
    files = {META: dump_yaml(meta), "metrics/loss": b"".join(lines)}
    EntityStore(bucket).write(Entity(entity_id, files), expected=ABSENT)
    return entity_id


# -- the command -------------------------------------------------------------------------------


def test_the_month_of_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    recent = put_run(bucket, 1, age=24 * HOUR, points=30)
    put_run(bucket, 2, age=40 * 24 * HOUR, points=30)
    bucket.write(f"artifacts/1/{recent.name}/artifacts/model.bin", bytes(1000), expected=ABSENT)
    bucket.write("elsewhere/x", bytes(10), expected=ABSENT)

    done = kaggleops("cost", "--bucket", bucket.uri, "--json", cwd=tmp_path)

    assert done.code == 0, done.errors
    used = done.json["usage"]
    assert (used["artifacts"], used["other"]) == (1000, 10)
    assert used["runs"] == sum(entry.size for entry in bucket.list("mlruns/"))
    assert (used["all_runs"], used["recent_runs"], used["unreadable"]) == (2, 1, 0)
    # 30 points a minute apart: each goes by itself. And one artifact.
    expected = of_run(HOUR, [60.0 * each for each in range(1, 31)]) + Operations(1)
    assert used["tracking"] == {"class_a": expected.class_a, "class_b": expected.class_b}
    assert done.json["total"] == 0  # all of it is within the free tier
    assert done.json["prices"] == {
        "source": CLOUD_STORAGE.source,
        "read": CLOUD_STORAGE.read,
        "storage_read": CLOUD_STORAGE.read,
    }


def test_the_same_bucket_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    put_run(bucket, 1, age=24 * HOUR)
    done = kaggleops("cost", "--bucket", bucket.uri, "--region", "europe-west1", cwd=tmp_path)

    assert done.code == 0, done.errors
    total = next(line for line in done.output.splitlines() if line.startswith("Total"))
    assert float(total.split()[-1]) > 0  # Europe has no free tier
    assert CLOUD_STORAGE.read in done.output
    assert "downloaded: $0.12 a GiB" in done.output.replace("\n", " ")


def test_a_broken_run_does_not_hide_the_others(bucket: Bucket, tmp_path: Path) -> None:
    put_run(bucket, 1, age=HOUR)
    bucket.write(run("1", "f" * 32).key, b"no archive", expected=ABSENT)

    done = kaggleops("cost", "--bucket", bucket.uri, cwd=tmp_path)

    assert done.code == 0, done.errors
    assert "as they cannot be read: 1 runs" in done.errors
    assert "runs of the last 30 days (1):" in done.output.replace("\n", " ")


def test_an_empty_bucket_costs_its_idle_server(bucket: Bucket) -> None:
    used = usage(EntityStore(bucket))
    assert used.stored == used.all_runs == used.recent_runs == 0
    assert used.tracking == Operations()
    assert used.server == of_idle_server()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--region", "mars-north1"], "the price list has no such region"),
        (["--bucket", "s3://x"], "there are no buckets behind s3://"),
    ],
)
def test_what_is_called_wrongly(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "b").mkdir()
    done = kaggleops("cost", "--bucket", str(tmp_path / "b"), *arguments, cwd=tmp_path)
    assert done.code == 2
    assert problem in done.error


# -- the bill ----------------------------------------------------------------------------------


def used_of(**changes: object) -> Usage:
    nothing = {"runs": 0, "artifacts": 0, "other": 0, "all_runs": 0, "looked_at": 0}
    rest = {"recent_runs": 0.0, "tracking": Operations(), "server": Operations(), "unreadable": 0}
    return Usage(**{**nothing, **rest, **changes})  # type: ignore[arg-type]


def test_the_example_of_the_price_list() -> None:
    """50 GB in us-east1 with 10,000 A and 50,000 B, "assuming no always free discounts apply".

    https://cloud.google.com/storage/pricing-examples: $1.00, $0.05 and $0.02 (us-east5 has the
    same prices and no free tier).
    """
    used = used_of(artifacts=50 * GIB, tracking=Operations(10_000, 50_000))
    bill = charges(used, CLOUD_STORAGE, "us-east5")
    assert [round(charge.cost, 10) for charge in bill] == [1.00, 0.05, 0.02]


def test_only_what_is_beyond_the_free_tier_is_charged() -> None:
    used = used_of(
        runs=2 * GIB,
        artifacts=4 * GIB,
        tracking=Operations(5_000, 40_000),
        server=Operations(1_000, 9_000),
    )
    bill = {charge.name: charge for charge in charges(used, CLOUD_STORAGE, "us-central1")}
    assert bill["storage"].charged == 1 * GIB
    assert bill["storage"].cost == pytest.approx(0.020)
    assert bill["class A"].cost == pytest.approx(0.005)
    assert bill["class B"].charged == 0


def test_a_region_without_a_known_price_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="has no such region"):
        charges(used_of(), CLOUD_STORAGE, "us")


# -- the operations ----------------------------------------------------------------------------


def test_what_is_logged_together_goes_together() -> None:
    quiet = of_run(60, [])
    assert of_run(60, [1.0, 1.5, 2.0, 9.0]).class_a == quiet.class_a + 1
    assert of_run(60, [1.0, 30.0]).class_a == quiet.class_a + 2


def test_a_run_that_logs_nothing_still_beats_and_looks() -> None:
    day = of_run(24 * HOUR, [])
    assert 24 < day.class_a < 24 * 6
    assert day.class_b > day.class_a


def test_an_idle_server_asks_once_a_look() -> None:
    month = of_idle_server()
    assert month.class_b == MONTH / IDLE_LOOK_SECONDS
    assert month.class_a == 30
    assert of_idle_server(live_run_seconds=MONTH).class_b == 2 * month.class_b


# -- the plan ----------------------------------------------------------------------------------


def test_the_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    done = kaggleops("cost", "--plan", cwd=tmp_path)
    assert done.code == 0, done.errors
    page = (Path(__file__).parents[2] / "docs/cost.md").read_text()
    printed = "\n".join(line.rstrip() for line in done.output.strip().splitlines())
    assert f"$ kaggleops cost --plan\n{printed}\n```" in page
    for trap in ("external IPv4", "North America", "lists"):
        assert trap in done.output


def test_a_region_whose_machines_have_no_known_price() -> None:
    there = ["cost", "--plan", "--region", "europe-west1"]
    done = CliRunner().invoke(main, there)
    assert done.exit_code == 0, done.stderr
    without = month(20, "none", Run(), "europe-west1").total
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("20 "))
    assert row[1:4] == ["-", "-", f"{without:.2f}"]
    assert "no machine in europe-west1" in done.stdout
    told = json.loads(CliRunner().invoke(main, [*there, "--json"]).stdout)
    assert told["unpriced"] == ["all day", "on demand"]
    assert {each["server"] for each in told["months"]} == {"none"}


@pytest.mark.parametrize("command", ["cost --hours", "cost --artifacts", "run --budget"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_what_is_no_number(command: str, value: str) -> None:
    done = CliRunner().invoke(main, [*command.split(), value])
    assert done.exit_code == 2
    assert f"Invalid value for '{command.split()[1]}'" in done.stderr


@pytest.mark.parametrize("option", ["--hours", "--artifacts"])
def test_what_no_run_can_be(option: str) -> None:
    done = CliRunner().invoke(main, ["cost", "--plan", option, "1e9"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_a_month_adds_up() -> None:
    run = Run(hours=9, artifacts=100 * 2**20)
    found = {server: month(200, server, run, "us-central1") for server in SERVERS}
    storage, class_a, class_b, machine = found["all day"].bill
    nine_hours = of_run(9 * HOUR, [10.0 * each for each in range(1, 9 * 360)])
    assert class_a.amount == 200 * nine_hours.class_a + 30
    # Idle or watched, each look asks for the change log and for each live run: 2.5 at any time.
    looks = 40 * HOUR / WATCHED_LOOK_SECONDS + (MONTH - 40 * HOUR) / IDLE_LOOK_SECONDS
    assert class_b.amount == 200 * nine_hours.class_b + looks * 3.5 + 200
    assert storage.amount > 200 * run.artifacts
    assert (machine.amount, machine.cost) == (730, 0)
    assert found["all day"].total == pytest.approx(storage.cost + class_a.cost + class_b.cost)
    # The stock server lists the bucket with each page.
    none = found["none"].bill
    assert none[1].amount == 200 * nine_hours.class_a + 20 * (5 + 2 * 120)
    assert none[3].amount == 0


def test_more_of_anything_never_costs_less() -> None:
    for server in SERVERS:
        totals = [month(runs, server, Run(), "us-central1").total for runs in (0, 20, 200, 2000)]
        assert totals == sorted(totals)
        assert totals[0] < 0.05
    shorter = month(200, "none", Run(hours=1), "us-central1").total
    assert shorter < month(200, "none", Run(hours=9), "us-central1").total


def test_a_machine_without_a_known_price_is_not_guessed() -> None:
    assert month(20, "none", Run(), "europe-west1").total > 0
    with pytest.raises(UsageError, match="a machine in europe-west1"):
        month(20, "all day", Run(), "europe-west1")
