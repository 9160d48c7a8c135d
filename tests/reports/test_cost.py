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
    Operations,
    Prices,
    charges,
    of_idle_server,
    of_output,
    of_run,
    prices_at,
    usage,
)
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore, run
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.tracking.live import IDLE_LOOK
from tests.buckets import EACH_KIND
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


def service_of(bucket: Bucket) -> str:
    """Return the host of an S3 service, which other kinds have none of."""
    return str(getattr(bucket, "service", ""))


# -- the command -------------------------------------------------------------------------------


@EACH_KIND
def test_the_month_of_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    recent = put_run(bucket, 1, age=24 * HOUR, points=30)
    put_run(bucket, 2, age=40 * 24 * HOUR, points=30)
    for name, length in (("model.bin", 800), ("output.txt", 200)):
        key = f"artifacts/1/{recent.name}/artifacts/{name}"
        bucket.write(key, bytes(length), expected=ABSENT)
    bucket.write("elsewhere/x", bytes(10), expected=ABSENT)

    done = kaggleops_here("cost", "--bucket", bucket.uri, "--json", cwd=tmp_path)

    assert done.code == 0, done.errors
    used = done.json["usage"]
    size = {entry.key: entry.size for entry in bucket.list()}
    assert used["artifacts"] == 1000
    assert used["runs"] == sum(of for key, of in size.items() if key.startswith("mlruns/"))
    assert used["other"] == sum(size.values()) - used["runs"] - 1000 >= 10
    assert (used["all_runs"], used["recent_runs"], used["unreadable"]) == (2, 1, 0)
    # 30 points a minute apart: each goes by itself. And one artifact, and the output.
    expected = of_run(HOUR, [60.0 * each for each in range(1, 31)]) + Operations(1)
    expected += of_output(HOUR)
    assert used["tracking"] == {"class_a": expected.class_a, "class_b": expected.class_b}
    listed = prices_at(service_of(bucket))
    # All of it is within the free tier; a service of one's own has no prices here.
    nothing = 0 if listed.source else None
    assert done.json["total"] == nothing
    assert {each["cost"] for each in done.json["charges"]} == {nothing}
    assert done.json["prices"] == {"source": listed.source, "read": listed.read}


@EACH_KIND
def test_the_same_bucket_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    put_run(bucket, 1, age=24 * HOUR)
    done = kaggleops_here("cost", "--bucket", bucket.uri, "--region", "europe-west1", cwd=tmp_path)

    if service_of(bucket):
        assert "has no prices by region here" in done.error
        return
    assert done.code == 0, done.errors
    total = next(line for line in done.output.splitlines() if line.startswith("Total"))
    assert float(total.split()[-1]) > 0  # Europe has no free tier
    assert prices_at(region="europe-west1").read in done.output
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
        (["--bucket", "az://x"], "unsupported bucket scheme az://"),
    ],
)
def test_what_is_called_wrongly(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "b").mkdir()
    done = kaggleops_here("cost", "--bucket", str(tmp_path / "b"), *arguments, cwd=tmp_path)
    assert done.code == 2
    assert problem in done.error


# -- the bill ----------------------------------------------------------------------------------


def dollars(bytes_stored: float, class_a: float, class_b: float, prices: Prices) -> list[float]:
    bill = charges(bytes_stored, Operations(class_a, class_b), prices)
    return [round(charge.cost, 6) for charge in bill]


def test_the_example_of_the_price_list() -> None:
    """50 GB in us-east1 with 10,000 A and 50,000 B, "assuming no always free discounts apply".

    https://cloud.google.com/storage/pricing-examples: $1.00, $0.05 and $0.02 (us-east5 has the
    same prices and no free tier).
    """
    assert dollars(50 * GIB, 10_000, 50_000, prices_at(region="us-east5")) == [1.00, 0.05, 0.02]


@pytest.mark.parametrize(
    ("host", "used", "bill"),
    [
        # 1 GiB of 6, 1,000 A of 6,000 and no B of 49,000 are beyond what is free.
        ("", (6 * GIB, 6_000, 49_000), [0.020, 0.005, 0]),
        # https://developers.cloudflare.com/r2/pricing/, its examples: 990 GB-months at $0.015; and
        # 290 million reads at $0.36, where 10 of 300 million are free.
        ("me.r2.cloudflarestorage.com", (10**12, 1_000, 10**6), [14.85, 0, 0]),
        ("me.r2.cloudflarestorage.com", (10**10, 10**5, 300 * 10**6), [0, 0, 104.40]),
        # "1.1 GB-month: billed for 2"; one operation beyond a million is billed as a million.
        ("r2.cloudflarestorage.com", (11.1e9, 10**6 + 1, 0), [0.03, 4.50, 0]),
        ("amazonaws.com", (100 * GIB, 10_000, 10_000), [2.30, 0.05, 0.004]),
        # 250 GiB are in the $5; 10 more cost 20 cents, and operations nothing.
        ("fra1.digitaloceanspaces.com", (260 * GIB, 10**6, 10**6), [5.00, 0.20, 0, 0]),
        ("s3.eu-central-1.wasabisys.com", (1124 * GIB, 10**6, 10**6), [7.99, 0.78, 0, 0]),
    ],
)
def test_a_bill_by_hand(host: str, used: tuple[float, ...], bill: list[float]) -> None:
    assert dollars(*used, prices_at(host)) == bill  # type: ignore[call-arg, arg-type]


def test_the_prices_of_a_service_that_nobody_looked_up_are_not_guessed() -> None:
    unknown = prices_at("nas.home:9000")
    assert (unknown.service, unknown.source) == ("nas.home:9000", "")


@pytest.mark.parametrize("host", ["", "amazonaws.com"])
def test_a_region_without_a_known_price_is_not_guessed(host: str) -> None:
    with pytest.raises(UsageError, match="looking up the prices of mars"):
        prices_at(host, "mars")


# -- the operations ----------------------------------------------------------------------------


def test_what_is_logged_together_goes_together() -> None:
    quiet = of_run(60, [])
    assert of_run(60, [1.0, 1.5, 2.0, 9.0]).class_a == quiet.class_a + 1
    assert of_run(60, [1.0, 30.0]).class_a == quiet.class_a + 2


def test_a_run_that_logs_nothing_still_beats_and_looks() -> None:
    day = of_run(24 * HOUR, [])
    assert 24 < day.class_a < 24 * 6
    assert day.class_b > day.class_a


def test_output_is_sent_a_few_times_an_hour() -> None:
    assert of_output(10).class_a == 1  # at the end
    assert of_output(9 * HOUR).class_a == 131
    assert (of_output(9 * HOUR).class_a - of_output(HOUR).class_a) / 8 == 12


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


def test_the_pages_show_what_the_benchmark_prints() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "benchmarks/bench_cost.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    tables = [each for each in done.stdout.split("\n\n") if each.startswith("|")]
    for table, page in zip(tables, ["cost.md", "buckets.md"], strict=True):
        assert table in (root / "docs" / page).read_text()
