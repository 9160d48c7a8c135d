"""What is assumed of platforms that run jobs: it holds on their fakes, and a difference is told."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kaggleops.first_contact import job as first_job
from kaggleops.first_contact.assumption import assumed_of
from kaggleops.first_contact.job import observed
from kaggleops.first_contact.trial import begun, left_behind
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests.backends.places import InDocker, OnColab, OnRunPod, Place
from tests.backends.world import BUCKET, World, world
from tests.command import kaggleops_here
from tests.fakes.wire import Request, Response

from .jobs import CASES, Executed

first_job._PAUSE = 0.1


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        pytest.MonkeyPatch.context() as patch,
        world(tmp_path_factory.mktemp("w"), patch) as made,
    ):
        yield made


def _hold(place: Place, *, held: bool) -> None:
    """Let new jobs wait for a machine for ever, or not."""
    if isinstance(place, OnColab):
        place.colab.behave()  # a job of its ends by itself, once it was cancelled
    elif isinstance(place, OnRunPod):
        place.server.held = held
    elif isinstance(place, InDocker):
        place.engine.held = held
    else:
        place.world.kaggle.behaviour.hold_sessions = held


# Everywhere it is the same notebook, and each takes half a minute.
_EXECUTED = [
    pytest.param(name, marks=() if name in ("kaggle", "docker") else pytest.mark.slow)
    for name in CASES
]


@pytest.fixture(scope="module", params=_EXECUTED)
def executed(request: pytest.FixtureRequest, outside: World) -> Iterator[Executed]:
    """A job that the fake has truly executed."""
    case = CASES[request.param]
    place = case.place(outside)
    _hold(place, held=False)
    try:
        config = place.backend.read_config({**place.fields, **case.fields}, "a test")
        job = observed(place.backend, f"{BUCKET}/doctor/try-{request.param}", config)
        yield Executed(case, place, job)
    finally:
        place.close()


@pytest.mark.parametrize("name", CASES)
def test_every_assumption_can_differ(name: str) -> None:
    assert sorted(assumed_of(name)) == CASES[name].differing


def test_what_is_assumed_holds_on_the_fake(executed: Executed) -> None:
    lines = executed.tried(lambda name: "")
    assert {line.id: line.seen for line in lines if line.verdict != "ok"} == {}


def test_one_that_differs_is_told_with_what_was_seen(executed: Executed) -> None:
    lines = executed.tried(lambda name: name)
    assert {line.id: line.seen for line in lines if line.verdict != "differs"} == {}
    assert all(line.seen and line.assumed and line.breaks for line in lines)


def test_what_is_seen_of_a_job_differs_for_itself_alone(executed: Executed) -> None:
    for one in executed.case.seen:
        lines = executed.tried(lambda _, one=one: one)  # type: ignore[misc]
        assert [line.id for line in lines if line.verdict == "differs"] == [one]


def test_a_platform_that_does_not_answer_is_no_difference(executed: Executed) -> None:
    page = Response(200, [("Content-Type", "text/html")], b"<html>Log in</html>")
    executed.answer(lambda request, response: page)
    lines = {line.id: line for line in executed.lines(lambda _: executed.job)}
    executed.answer(None)
    assert {name for name, line in lines.items() if line.verdict == "ok"} >= set(executed.case.seen)
    if executed.place.name in ("kaggle", "runpod"):  # others are on this machine
        assert {lines[name].verdict for name in executed.case.answers} == {"not checked"}


def test_a_job_that_fails_is_told_with_its_reason(executed: Executed) -> None:
    failed = replace(executed.job, status="FAILED", noted={}, problems=("it broke",))
    found = {line.id: line for line in executed.lines(lambda _: failed)}
    assert found["job-finishes"].seen.endswith("it broke")
    assert found["python-new-enough"].verdict == "not checked"
    assert "it broke" in found["python-new-enough"].seen
    assert found["log-is-whole"].verdict == "ok"


def test_one_that_is_killed_leaves_a_job_that_is_deleted(
    executed: Executed, outside: World
) -> None:
    place = executed.place
    _hold(place, held=True)
    with begun(BUCKET) as killed:
        what = Launch(f"{killed.uri}/mlruns")
        commit = find_commit(outside.repository.folder)
        run = place.backend.submit(commit, what, executed.job.config)
    tags = run.tags
    assert left_behind(BUCKET) == [killed]
    killed.delete()
    _hold(place, held=False)
    assert not place.backend.remove(tags)
    left = [key for key in outside.gcs.objects("our-bucket") if key.startswith(killed.folder)]
    assert left == []


def test_a_job_that_is_refused_is_said_and_leaves_nothing(
    outside: World, tmp_path: Path, state_folder: Path
) -> None:
    # `tmp_path` is in no repository: a backend has its defaults there, but for what is written.
    (tmp_path / "config/backend").mkdir(parents=True)
    (tmp_path / "config/backend/kaggle.yaml").write_text("credentials: ada/bucket-key\n")
    before = set(outside.gcs.objects("our-bucket"))
    outside.kaggle.refuse_push("Maximum batch GPU session count of 2 reached.")
    done = kaggleops_here("doctor", "--try", "kaggle", "--yes", "--bucket", BUCKET, cwd=tmp_path)
    assert done.code == 1
    assert "up to 0.5 h of this week's GPU" in done.errors
    assert "✗ job " in done.output
    assert "session count of 2 reached" in done.output
    assert "✓ left behind                nothing" in done.output
    assert set(outside.gcs.objects("our-bucket")) == before
    assert not list((state_folder / "first-contact").glob("try-*"))


@pytest.mark.parametrize("ends", ["is cancelled in the queue", "is killed"])
def test_a_job_that_does_not_finish_is_told_and_leaves_nothing(
    ends: str, outside: World, tmp_path: Path, state_folder: Path
) -> None:
    kaggle = outside.kaggle
    (tmp_path / "config/backend").mkdir(parents=True)
    fields = "credentials: ada/bucket-key\nmachine_shape: ''\n"
    (tmp_path / "config/backend/kaggle.yaml").write_text(fields)
    before, notebooks = set(outside.gcs.objects("our-bucket")), kaggle.kernels
    kaggle.behaviour.hold_sessions = True

    def change(request: Request, response: Response) -> Response:
        """When it is asked how the job is, its owner ends it, or the machine is out of memory."""
        if request.op == "GetKernelSessionStatus":
            (ref,) = set(kaggle.kernels) - set(notebooks)
            session = kaggle.session(ref)
            if ends == "is cancelled in the queue":
                session.cancel()
            else:
                session.start()
                session.crash()
        return response

    assert kaggle._http
    kaggle._http.change = change
    try:
        done = kaggleops_here(
            "doctor", "--try", "kaggle", "--yes", "--json", "--bucket", BUCKET, cwd=tmp_path
        )
    finally:
        kaggle._http.change = lambda request, response: response
        kaggle.behaviour.hold_sessions = False
    assert done.code == 1
    lines = {each["id"]: each for each in done.json["assumptions"]}
    differing = {name: each["seen"] for name, each in lines.items() if each["verdict"] == "differs"}
    word, status = {
        "is killed": ("ERROR", "FAILED"),
        "is cancelled in the queue": ("CANCEL_ACKNOWLEDGED", "KILLED"),
    }[ends]
    # Of a job that did not get so far, nothing else is a difference.
    assert list(differing) == ["job-finishes"], differing
    said = f"the platform says {word}, the run is {status}"
    assert differing["job-finishes"].startswith(said)
    assert set(outside.gcs.objects("our-bucket")) == before
    assert kaggle.kernels == notebooks
