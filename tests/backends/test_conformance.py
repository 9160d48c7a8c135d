"""What every backend promises, on every platform there is one for.

Four runs are submitted and started at once. Each test is another machine: it shares nothing with
the one that submitted but the bucket, the repository and the platform.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.lookup import download, resume, submitted_run
from kaggleops.errors import KaggleOpsError, UsageError
from tests import secrets_of
from tests.canaries import CommandLines, found_below, found_in_bucket, marks_in

from .places import PLACES, Place
from .world import TRACKING, Collected, Gate


@dataclass(frozen=True)
class Jobs:
    """What was submitted, by run id."""

    good: str
    failing: str
    cancelled: str
    cancelled_early: str
    gate: Gate
    """Where `good` waits."""
    cancel_gate: Gate
    """Where `cancelled` waits, for ever."""


@pytest.fixture(scope="module")
def jobs(place: Place) -> Jobs:
    folder = place.world.folder / f"gates-{place.name}"
    folder.mkdir()
    gate, cancel_gate = Gate(folder / "good"), Gate(folder / "cancelled")
    return Jobs(
        good=place.submit("alpha=0.5", f"gate={gate.path}", "note=two words", **place.own).run_id,
        failing=place.submit(entry_point="fail").run_id,
        cancelled=place.submit(f"gate={cancel_gate.path}").run_id,
        cancelled_early=place.submit().run_id,
        gate=gate,
        cancel_gate=cancel_gate,
    )


@pytest.fixture(autouse=True)
def _platform(
    request: pytest.FixtureRequest, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine is not what asks for a job of this one: that lies where it was submitted."""
    if "place" in request.fixturenames and (place := request.getfixturevalue("place")).home:
        monkeypatch.setenv("KAGGLEOPS_HOME", str(place.world.folder / place.home))


def executed_on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these backends; on the others it is slow."""
    return pytest.mark.parametrize(
        "place",
        [
            pytest.param(name, marks=() if name in names else pytest.mark.slow)
            for name in sorted(PLACES)
        ],
        indirect=True,
        scope="module",
    )


# Everywhere it is the same notebook, so only Kaggle executes all of them unless asked for more.
executing = executed_on("kaggle")
# What no platform is asked about yet, all have from one class; this machine's adds to it.
before_any_platform = executed_on("kaggle", "local")


def found(run_id: str) -> RemoteRun:
    """Find a run as another machine does."""
    return submitted_run(TRACKING, run_id)


def test_a_submitted_run_is_scheduled_and_says_all_there_is_to_know(place: Place) -> None:
    submitted = place.submit("alpha=0.5", "note=two words")
    run = place.world.run(submitted.run_id)
    assert run.info.status == submitted.get_status() == "SCHEDULED"
    assert run.data.params == {"alpha": "0.5", "gate": "none", "overrides": "'note=two words'"}
    expected = {
        "mlflow.source.git.commit": place.world.sha,
        "mlflow.source.git.branch": "main",
        "mlflow.project.backend": place.name,
        "mlflow.project.entryPoint": "main",
        "git_commit": place.world.sha[:10],
        "kaggleops.score": "jaccard",
        "submitted_to": place.name,
        "backend": place.name,
    }
    assert expected.items() <= run.data.tags.items()
    assert place.world.sha[:10] in run.data.tags["mlflow.note.content"]

    # Submitted again, it is found there.
    before = place.world.kaggle.count("SaveKernel")
    config = place.backend.read_config(place.fields, "a test")
    again = resume(place.backend, TRACKING, submitted.run_id, config)
    assert again.get_status() == "SCHEDULED"
    assert place.world.kaggle.count("SaveKernel") == before
    again.cancel()


@executing
def test_one_that_is_cancelled_while_it_waits_never_starts(place: Place, jobs: Jobs) -> None:
    run = found(jobs.cancelled_early)
    run.cancel()
    # Now machines take them all: the others go on while this test waits.
    for each in (jobs.good, jobs.failing, jobs.cancelled, jobs.cancelled_early):
        place.start(found(each))
    place.wait(run)
    assert run.get_status() == "KILLED"
    assert place.world.run(run.run_id).data.metrics == {}
    assert not run.wait()


@executed_on("kaggle", "runpod")
def test_one_that_runs_is_followed_and_brought_home(
    place: Place, jobs: Jobs, tmp_path: Path
) -> None:
    run = found(jobs.good)
    place.start(run)
    with CommandLines() as command_lines:
        jobs.gate.wait()
    assert command_lines.looks
    assert command_lines.found == {}
    assert place.kept_elsewhere() == set()
    assert all(any(place.world.folder.glob(each)) for each in place.stores)
    assert run.get_status() == "RUNNING"
    tags = place.world.run(jobs.good).data.tags
    assert (tags["backend"], tags["submitted_to"]) == (place.machine, place.name)
    longest = {"kaggle": 12, "colab": 12, "manual": 12, "runpod": 6, "skypilot": 24}.get(
        place.name, 0
    )
    assert longest - 1 < float(tags["hours_left"]) <= longest
    assert place.world.run(jobs.good).data.metrics == {"alpha": 0.5}
    if place.has_logs:
        so_far = "\n".join(run.logs())
        assert "the training begins" in so_far
        assert "the training goes on" not in so_far
        following = Collected(run.logs(follow=True))
    with pytest.raises(UsageError, match="it is running"):
        resume(place.backend, TRACKING, jobs.good, place.backend.read_config(place.fields, "-"))

    jobs.gate.open()
    place.wait(run)
    assert run.wait()
    assert place.world.run(jobs.good).info.status == "FINISHED"
    assert place.world.run(jobs.good).data.metrics == {"alpha": 1.0}
    if place.has_logs:
        following.join()
        assert list(run.logs()) == following.lines
        assert sum("the training" in line for line in following.lines) == 2
    _, brought = download(run.tracking_uri, run.run_id, tmp_path / "home")
    files = {str(file.relative_to(tmp_path / "home")) for file in brought.files}
    assert files == {"overrides.txt", "output.txt", *place.output}
    assert brought.problems == []
    assert (tmp_path / "home/overrides.txt").read_text() == "note=two words"
    with pytest.raises(UsageError, match="it has finished"):
        resume(place.backend, TRACKING, jobs.good, place.backend.read_config(place.fields, "-"))
    # What was there to be read has not left its place.
    world = place.world
    assert found_in_bucket(world.gcs, "our-bucket") == {}
    assert found_below(tmp_path) == {}
    logged = "\n".join(run.logs()) if place.has_logs else ""
    assert marks_in(str(world.run(jobs.good).to_dictionary()) + logged) == set()
    assert place.kept_elsewhere() == set()


@executing
def test_one_that_fails_has_failed(place: Place, jobs: Jobs) -> None:
    run = found(jobs.failing)
    place.start(run)
    place.wait(run)
    assert not run.wait()
    assert run.get_status() == "FAILED"
    # Not that its notebook's cell failed, as whatever executes that says.
    assert run.failure.startswith("no luck (exit code 1)")
    if place.has_logs:
        assert any("no luck" in line for line in run.logs())


@executing
def test_one_that_is_cancelled_stops_with_what_it_has(place: Place, jobs: Jobs) -> None:
    run = found(jobs.cancelled)
    place.start(run)
    jobs.cancel_gate.wait()
    run.cancel()
    place.wait(run)
    assert run.get_status() == "KILLED"
    assert place.world.run(run.run_id).data.metrics == {"alpha": 0.1}
    with pytest.raises(UsageError, match="it has ended already"):
        run.cancel()


def test_two_submits_at_once_are_two_runs(place: Place) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda alpha: place.submit(f"alpha={alpha}"), (1, 2))
    assert one.run_id != other.run_id
    alphas = [place.world.run(each.run_id).data.params["alpha"] for each in (one, other)]
    assert alphas == ["1", "2"]
    for each in (one, other):
        each.cancel()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"nonsense": 1}, r"there is no field 'nonsense'"),
        ({"install_form": "."}, r"Did you mean install_from\?"),
        ({"install_from": []}, r"install_from: "),
        (
            {"install_from": "git+https://ada:a-token@host.test/x"},
            r"install_from: git\+https://\*\*\*@",
        ),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_clear_line(
    place: Place, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        place.backend.read_config(fields, "its configuration")
    assert "\n" not in str(caught.value)


@before_any_platform
def test_a_commit_that_nobody_can_fetch_travels_through_the_bucket(place: Place) -> None:
    world = place.world
    world.repository.git("remote", "set-url", "origin", "git@example.org:ada/toy.git")
    try:
        run = place.submit()
    finally:
        world.repository.git("remote", "set-url", "origin", "git://127.0.0.1:9/toy")
    assert f"code/{world.sha}.bundle" in world.gcs.objects("our-bucket")
    run.cancel()


@before_any_platform
@pytest.mark.parametrize(
    ("overrides", "entry_point", "problem"),
    [
        (["beta=1", "x"], "fail", "does not take 'beta=1'"),
        ([], "nonsense", "nonsense"),
        ([f"note={secrets_of.HUGGING_FACE_TOKEN}"], "main", r"note holds a secret \(Hugging Face"),
        ([f"url={secrets_of.DATABASE}"], "main", r"url holds a secret \(password in an address"),
    ],
)
def test_what_the_project_does_not_take_is_refused_before_anything_is_made(
    place: Place, overrides: list[str], entry_point: str, problem: str
) -> None:
    runs = len([key for key in place.world.gcs.objects("our-bucket") if "mlruns/" in key])
    with pytest.raises(KaggleOpsError, match=problem) as refused:
        place.submit(*overrides, entry_point=entry_point)
    assert marks_in(str(refused.value)) == set()
    assert len([key for key in place.world.gcs.objects("our-bucket") if "mlruns/" in key]) == runs


def test_there_is_no_such_run() -> None:
    with pytest.raises(UsageError, match="not found"):
        found("0" * 32)
