"""What each platform offers to jobs that wait, asked with few requests."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaggleops.backends.interface import Offer
from kaggleops.backends.lookup import backend_named, names
from kaggleops.campaign.hosts import Offers
from kaggleops.errors import UsageError
from tests.command import Done, kaggleops_here
from tests.fakes.runpod_server import RunPodServer

from .places import InDocker, OnColab
from .world import TRACKING, World

KAGGLE = {"credentials": "ada/bucket-key"}


def offered(name: str, running: int = 0, **fields: Any) -> list[Offer]:
    backend = backend_named(name)
    config = backend.read_config(fields, "a test")
    return backend.offers(TRACKING, config, running)


@pytest.fixture(scope="module")
def colab(outside: World) -> Iterator[OnColab]:
    made = OnColab(outside)
    yield made
    made.close()


@pytest.fixture(scope="module")
def docker(outside: World) -> Iterator[InDocker]:
    made = InDocker(outside)
    yield made
    made.close()


def test_a_session_is_made_shorter_where_a_field_says_how_long() -> None:
    for name, field in (("kaggle", "session_hours"), ("skypilot", "hours"), ("local", "")):
        backend = backend_named(name)
        config = backend.read_config({}, "a test")
        offer = Offer(name, 1, session_hours=9.0)
        wanted = replace(config, **{field: 2.0}) if field else config
        assert backend.for_session(config, offer, 2.0, 1.0) == wanted
        assert backend.for_session(config, offer, None, 1.0) == config
        assert backend.for_session(config, offer, 10.0, 1.0) == config


def test_kaggle_offers_what_is_left_of_its_quota(outside: World) -> None:
    outside.kaggle.use_gpu("ada", 7.5)
    (gpu,) = offered("kaggle", **KAGGLE)
    assert gpu.refreshes is not None
    assert gpu.refreshes > datetime.now(UTC)
    assert replace(gpu, refreshes=None) == Offer(
        "kaggle",
        2,
        hours=22.5,
        total_hours=30.0,
        session_hours=12.0,
        accelerator="NvidiaTeslaT4",
        memory_gb=16.0,
    )
    (tpu,) = offered("kaggle", 1, **KAGGLE, machine_shape="TpuV5E8")
    assert (tpu.sessions, tpu.hours, tpu.session_hours, tpu.memory_gb) == (1, 20.0, 9.0, 128.0)
    (none,) = offered("kaggle", 5, **KAGGLE, machine_shape="", session_hours=3.0, sessions=4)
    assert (none.sessions, none.hours, none.refreshes, none.session_hours) == (0, None, None, 3.0)

    outside.kaggle.use_gpu("ada", 30.0)
    try:
        (used,) = offered("kaggle", **KAGGLE)
    finally:
        outside.kaggle.use_gpu("ada", 0.0)
    when = f"{gpu.refreshes.day} {gpu.refreshes:%B %H:%M} UTC"
    assert used.problem == f"kaggle's 30 h of GPU are used up until {when}"
    assert used.refreshes == gpu.refreshes


def test_colab_offers_a_session(colab: OnColab) -> None:
    fields = {**colab.fields, "accelerator": "L4", "session_hours": 20}
    assert offered("colab", **fields) == [
        Offer("colab", 1, session_hours=20.0, accelerator="L4", memory_gb=24.0)
    ]
    assert [call[0] for call in colab.colab.calls] == ["usage"]
    assert offered("colab", 1, **colab.fields)[0].sessions == 0


def test_runpod_offers_each_gpu_that_is_free_at_its_price(
    outside: World, runpod: RunPodServer
) -> None:
    l4, a5000, rtx = offered("runpod", 1)
    assert l4 == Offer(
        "runpod",
        1,
        0.40,
        session_hours=6.0,
        ending_hours=0.2,
        accelerator="NVIDIA L4",
        memory_gb=24.0,
        pool="pods",
    )
    assert [each.price for each in (a5000, rtx)] == [0.25, 0.70]
    # A budget of one run's is kept to, too.
    l4, a5000, rtx = offered("runpod", budget=0.5, gpu_count=2)
    assert [each.session_hours for each in (l4, a5000, rtx)] == [0.4, 0.8, 0.1]
    runpod.fail(403, op="listGpuTypes")
    (problem,) = Offers(lambda: datetime.now(UTC)).of(
        backend_named("runpod"), TRACKING, backend_named("runpod").read_config({}, "a test"), 0
    )
    assert problem.problem.startswith("runpod: ")


def test_a_session_is_no_longer_and_no_dearer_than_was_decided(
    outside: World, runpod: RunPodServer
) -> None:
    (first, *_) = offered("runpod")
    backend = backend_named("runpod")
    config = backend.read_config({"keep": False}, "a test")
    narrow = backend.for_session(config, first, 2.0, 0.4 * 2.2)
    assert (narrow.gpus, narrow.hours, narrow.budget) == (
        ["NVIDIA L4"],
        2.0,
        pytest.approx(0.88),
    )
    # It is enough, and a cent less is not.
    backend.check(TRACKING, narrow)
    for name, hours, field in (
        ("kaggle", 2.5, "session_hours"),
        ("colab", 2.5, "session_hours"),
        ("docker", None, "gpus"),
    ):
        other = backend_named(name)
        whole = other.read_config({}, "a test")
        offer = Offer(name, 1, session_hours=hours and 12.0)
        narrowed = other.for_session(whole, offer, hours, 0.0)
        assert getattr(narrowed, field) == (hours or getattr(whole, field))
        assert other.for_session(whole, offer, 99.0, 0.0) == whole


def test_docker_offers_a_container(docker: InDocker) -> None:
    assert offered("docker", **docker.fields) == [Offer("docker", 1, memory_gb=16.0)]
    (gpus,) = offered("docker", 1, **docker.fields, gpus="all", sessions=3)
    assert (gpus.sessions, gpus.accelerator, gpus.memory_gb) == (2, "GPU", None)
    with pytest.raises(UsageError, match="docker pull another"):
        offered("docker", **docker.fields | {"image": "another"})


def test_where_nobody_starts_it_there_is_nothing_to_offer() -> None:
    assert offered("manual") == []


@pytest.mark.parametrize("name", sorted({"colab", "docker", "kaggle", "runpod"} & set(names())))
def test_no_session_at_all_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="sessions: 0: input should be greater"):
        backend_named(name).read_config({"sessions": 0}, "a test")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 12, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_a_platform_is_asked_once_a_minute(outside: World) -> None:
    backend, clock = backend_named("kaggle"), Clock()
    config = backend.read_config(KAGGLE, "a test")
    offers = Offers(clock)

    def sessions(running: int) -> int:
        return offers.of(backend, TRACKING, config, running)[0].sessions

    def asked() -> int:
        return outside.kaggle.count("GetAcceleratorQuotaStatistics")

    before = asked()
    assert [sessions(running) for running in (0, 1, 2, 3)] == [2, 1, 0, 0]
    assert asked() == before + 1
    clock.now += timedelta(minutes=1)
    assert (sessions(1), asked()) == (1, before + 2)
    # Where one is done meanwhile, its session is to be had at once.
    assert (sessions(0), asked()) == (2, before + 3)

    offers.refused("kaggle", "Maximum batch GPU session count of 2 reached")
    (left_alone,) = offers.of(backend, TRACKING, config, 1)
    assert left_alone == Offer(
        "kaggle",
        0,
        problem="kaggle refused a job: Maximum batch GPU session count of 2 reached; "
        "it is asked again at 12:11 UTC",
    )
    clock.now += timedelta(minutes=10)
    assert sessions(1) == 1


def test_a_platform_that_is_not_set_up_says_so(
    outside: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    backend = backend_named("runpod")
    (found,) = Offers(Clock()).of(backend, TRACKING, backend.read_config({}, "a test"), 0)
    assert (found.sessions, found.problem) == (0, "runpod: there is no API key on this machine")


def sweep(outside: World, *arguments: object) -> Done:
    given = ("sweep", "--bucket", "gs://our-bucket", "--dry-run", *arguments)
    return kaggleops_here(*given, cwd=outside.repository.folder)


@pytest.fixture
def config(outside: World, tmp_path: Path) -> Path:
    file = tmp_path / "kaggle.yaml"
    file.write_text(yaml.safe_dump(KAGGLE))
    return file


def test_a_sweep_is_refused_where_no_job_of_it_could_ever_go(
    outside: World, runpod: RunPodServer, config: Path
) -> None:
    tried = ("alpha=1,2,3", "-b", "runpod")
    assert "there is no budget. Raise --budget" in sweep(outside, *tried).error
    assert "over the budget of $0.10" in sweep(outside, *tried, "--budget", 0.1).error
    error = sweep(outside, *tried, "--budget", 9, "--gpu", "H100").error
    assert "H100 wanted. Change --gpu or --memory" in error
    # What is refreshed is waited for.
    kaggle = ("alpha=1,2,3", "-b", "kaggle", "--backend-config", config)
    outside.kaggle.use_gpu("ada", 30.0)
    try:
        waits = sweep(outside, *kaggle)
    finally:
        outside.kaggle.use_gpu("ada", 0.0)
    assert waits.code == 0, waits.errors
    assert "Waits  3 jobs wait: kaggle's 30 h of GPU are used up until " in waits.output
    assert sweep(outside, *kaggle, "--gpu", "T4").code == 0
    assert "TpuV5E8 wanted" in sweep(outside, *kaggle, "--gpu", "TpuV5E8").error


def test_a_sweep_says_what_would_begin_where(
    outside: World, runpod: RunPodServer, config: Path
) -> None:
    (outside.repository.folder / "config/backend").mkdir(parents=True)
    file = outside.repository.folder / "config/backend/kaggle.yaml"
    file.write_text(config.read_text())
    asked = ("alpha=range(6)", "--version", "HEAD", "--budget", 20)
    try:
        named = sweep(outside, *asked, "-b", "kaggle,runpod", "--at-once", 5, "--json")
        every = sweep(outside, *asked, "-b", "auto")
    finally:
        file.unlink()
    assert named.code == 0, named.errors
    assert {each["backend"]: each["jobs"] for each in named.json["begin_now"]}["kaggle"] == 2
    assert list(named.json["sweep"]["configs"]) == ["kaggle", "runpod"]
    assert every.code == 0, every.errors
    assert "Kaggle  2 jobs now" in every.output
    assert "Local  1 job now" in every.output
    assert "submitting to a container: " in every.errors
