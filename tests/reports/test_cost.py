"""What `kaggleops cost` says of a bucket."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.cli import main
from kaggleops.cli.cost import (
    GIB,
    MONTH,
    READ,
    SOURCE,
    Operations,
    charges,
    of_idle_server,
    of_run,
    usage,
)
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore, run
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.tracking.live import IDLE_LOOK
from tests.command import kaggleops_here
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

    done = kaggleops_here("cost", "--bucket", bucket.uri, "--json", cwd=tmp_path)

    assert done.code == 0, done.errors
    used = done.json["usage"]
    assert (used["artifacts"], used["other"]) == (1000, 10)
    assert used["runs"] == sum(entry.size for entry in bucket.list("mlruns/"))
    assert (used["all_runs"], used["recent_runs"], used["unreadable"]) == (2, 1, 0)
    # 30 points a minute apart: each goes by itself. And one artifact.
    expected = of_run(HOUR, [60.0 * each for each in range(1, 31)]) + Operations(1)
    assert used["tracking"] == {"class_a": expected.class_a, "class_b": expected.class_b}
    assert done.json["total"] == 0  # all of it is within the free tier
    assert done.json["prices"] == {"source": SOURCE, "read": READ, "storage_read": READ}


def test_the_same_bucket_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    put_run(bucket, 1, age=24 * HOUR)
    done = kaggleops_here("cost", "--bucket", bucket.uri, "--region", "europe-west1", cwd=tmp_path)

    assert done.code == 0, done.errors
    total = next(line for line in done.output.splitlines() if line.startswith("Total"))
    assert float(total.split()[-1]) > 0  # Europe has no free tier
    assert READ in done.output
    assert "downloads: $0.12 a GiB" in done.output.replace("\n", " ")


def test_a_broken_run_does_not_hide_the_others(bucket: Bucket, tmp_path: Path) -> None:
    put_run(bucket, 1, age=HOUR)
    bucket.write(run("1", "f" * 32).key, b"no archive", expected=ABSENT)

    done = kaggleops_here("cost", "--bucket", bucket.uri, cwd=tmp_path)

    assert done.code == 0, done.errors
    assert "Left out: 1 runs that cannot be read" in done.errors
    assert "1 runs in the last 30 days:" in done.output.replace("\n", " ")


def test_an_empty_bucket_costs_its_idle_server(bucket: Bucket) -> None:
    used = usage(EntityStore(bucket))
    assert used.runs == used.artifacts == used.all_runs == used.recent_runs == 0
    assert used.tracking == Operations()
    assert used.server == of_idle_server()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--region", "mars-north1"], "unknown region"),
        (["--bucket", "s3://x"], "unsupported bucket scheme s3://"),
    ],
)
def test_what_is_called_wrongly(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "b").mkdir()
    done = kaggleops_here("cost", "--bucket", str(tmp_path / "b"), *arguments, cwd=tmp_path)
    assert done.code == 2
    assert problem in done.error


# -- the bill ----------------------------------------------------------------------------------


def test_the_example_of_the_price_list() -> None:
    """50 GB in us-east1 with 10,000 A and 50,000 B, "assuming no always free discounts apply".

    https://cloud.google.com/storage/pricing-examples: $1.00, $0.05 and $0.02 (us-east5 has the
    same prices and no free tier).
    """
    bill = charges(50 * GIB, Operations(10_000, 50_000), "us-east5")
    assert [round(charge.cost, 10) for charge in bill] == [1.00, 0.05, 0.02]


def test_only_what_is_beyond_the_free_tier_is_charged() -> None:
    found = charges(6 * GIB, Operations(6_000, 49_000), "us-central1")
    bill = {charge.name: charge for charge in found}
    assert bill["storage"].charged == 1 * GIB
    assert bill["storage"].cost == pytest.approx(0.020)
    assert bill["class A"].cost == pytest.approx(0.005)
    assert bill["class B"].charged == 0


def test_a_region_without_a_known_price_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="unknown region"):
        charges(0, Operations(), "us")


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
    assert month.class_b == MONTH / IDLE_LOOK
    assert month.class_a == 30
    assert of_idle_server(MONTH).class_b == 2 * month.class_b


@pytest.mark.parametrize("command", ["run --budget"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_what_is_no_number(command: str, value: str) -> None:
    done = CliRunner().invoke(main, [*command.split(), value])
    assert done.exit_code == 2
    assert f"Invalid value for '{command.split()[1]}'" in done.stderr


# -- the page ----------------------------------------------------------------------------------


def test_the_page_shows_what_the_benchmark_prints() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "benchmarks/bench_cost.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert "\n".join(table) in (root / "docs/cost.md").read_text()
