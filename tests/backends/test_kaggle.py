"""What only Kaggle does: how it refuses, forgets to answer, replays and misnames."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.lookup import backend_named, resume, submitted_run
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.mlruns import run as entity_of
from kaggleops.mlruns import unpack
from tests.command import kaggleops_here

from .world import BUCKET, TRACKING, World

GPU = {"credentials": "ada/bucket-key"}
CPU = {**GPU, "machine_shape": ""}


@pytest.fixture(autouse=True)
def calm(outside: World) -> Iterator[None]:
    """Nothing of one test's is left on Kaggle for the next."""
    outside.kaggle.reset_counts()
    yield
    outside.kaggle.heal()
    for ref in outside.kaggle.kernels:
        outside.kaggle.session(ref).cancel()


def submit(outside: World, **fields: Any) -> RemoteRun:
    backend = backend_named("kaggle")
    commit = find_commit(outside.repository.folder)
    config = backend.read_config(CPU | fields, "a test")
    return backend.submit(commit, Launch(TRACKING), config)


def again(run_id: str, **fields: Any) -> RemoteRun:
    backend = backend_named("kaggle")
    return resume(backend, TRACKING, run_id, backend.read_config(CPU | fields, "a test"))


def runs(outside: World) -> set[str]:
    keys = [key.split("/") for key in outside.gcs.objects("our-bucket")]
    found = [key[2] for key in keys if key[0] == "mlruns" and len(key) == 3]
    return {name.removesuffix(".tar.gz") for name in found}


def newest(outside: World, before: set[str]) -> str:
    (run_id,) = runs(outside) - before
    return run_id


def test_what_is_pushed(outside: World) -> None:
    outside.kaggle.add_dataset("ada/tweets", {"train.csv": b""})
    run = submit(
        outside,
        machine_shape="NvidiaTeslaT4",
        dataset_sources=["ada/tweets"],
        session_hours=1.5,
        docker_image="gcr.io/kaggle-gpu-images/python@sha256:0",
        docker_image_pinning="original",
        install_from="./kaggleops.whl",
    )
    ref = f"ada/kaggleops-{run.run_id}"
    assert run.page == f"https://www.kaggle.com/code/{ref}"
    kernel = outside.kaggle.kernel(ref)
    version = kernel.latest
    assert (version.private, version.internet, version.shape) == (True, True, "NvidiaTeslaT4")
    assert version.session_seconds == 5400
    assert version.docker_image == "gcr.io/kaggle-gpu-images/python@sha256:0"
    assert version.image_pinning == "original"
    assert version.sources["dataset"] == ["ada/bucket-key", "ada/tweets"]
    (cell,) = [
        each
        for each in json.loads(version.text)["cells"]
        if "parameters" in each["metadata"].get("tags", [])
    ]
    values: dict[str, str] = {}
    exec(cell["source"], values)
    assert values["run_id"] == run.run_id
    assert values["version"] == outside.sha
    assert values["bucket"] == BUCKET
    assert values["repository"] == outside.repository.git("remote", "get-url", "origin")
    assert values["install_from"] == "./kaggleops.whl"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"credentials": ""},
            "there is no dataset ada/kaggleops-credentials with the bucket's key",
        ),
        ({"credentials": "mine"}, "credentials: 'mine': string should match"),
        ({"model_sources": ["a/b"]}, "model_sources.0: 'a/b': string should match"),
        ({"docker_image_pinning": "newest"}, "input should be '', 'original' or 'latest'"),
        ({"session_hours": 13}, "13: input should be less than or equal to 12"),
        ({"session_hours": "long"}, "session_hours: "),
        ({"internet": "perhaps"}, "internet: "),
        ({"internet": False}, "internet: false, and its notebook has to reach gs://our-bucket"),
    ],
)
def test_a_configuration_that_kaggle_would_not_take(
    outside: World, fields: dict[str, object], problem: str
) -> None:
    before = runs(outside)
    with pytest.raises(UsageError, match=problem):
        submit(outside, **fields)
    assert runs(outside) == before
    assert outside.kaggle.count("SaveKernel") == 0


def test_a_bucket_that_no_notebook_reaches(outside: World, tmp_path: Path) -> None:
    backend = backend_named("kaggle")
    config = backend.read_config(CPU, "a test")
    what = Launch(f"bucket+file://{tmp_path}/bucket/mlruns")
    with pytest.raises(UsageError, match="cannot reach"):
        backend.submit(find_commit(outside.repository.folder), what, config)


def test_no_quota_is_said_before_anything_is_made(outside: World) -> None:
    before = runs(outside)
    outside.kaggle.use_gpu("ada", 30)
    try:
        quota = {each.resource: each.left_hours for each in backend_named("kaggle").quota()}
        assert quota == {"GPU": 0, "TPU": 20}
        with pytest.raises(RefusedError, match="kaggle's 30 h of GPU are used up until "):
            submit(outside, machine_shape="NvidiaTeslaT4")
        assert runs(outside) == before
        submit(outside)  # without a GPU
    finally:
        outside.kaggle.use_gpu("ada", 0)


def test_a_refused_push_is_an_error_and_the_run_has_failed_until_it_is_resumed(
    outside: World,
) -> None:
    before = runs(outside)
    outside.kaggle.refuse_push("Maximum batch GPU session count of 2 reached.")
    with pytest.raises(RefusedError, match="session count of 2 reached") as caught:
        submit(outside)
    run_id = newest(outside, before)
    assert f"kaggleops resume {run_id}" in str(caught.value)
    run = outside.run(run_id)
    assert run.info.status == "FAILED"
    assert "count of 2 reached" in run.data.tags["job_ended"]
    assert again(run_id).get_status() == "SCHEDULED"
    assert "job_ended" not in outside.run(run_id).data.tags


def test_a_push_that_kaggle_does_not_understand_is_refused(outside: World) -> None:
    before = runs(outside)
    with pytest.raises(RefusedError, match="Invalid machine shape"):
        submit(outside, machine_shape="Abacus")
    assert outside.run(newest(outside, before)).info.status == "FAILED"


def test_a_source_that_is_not_there_is_an_error_and_nothing_runs_without_it(
    outside: World,
) -> None:
    before = runs(outside)
    with pytest.raises(RefusedError, match="dataset ada/nonsense"):
        submit(outside, dataset_sources=["ada/nonsense"])
    assert f"ada/kaggleops-{newest(outside, before)}" not in outside.kaggle.kernels


@pytest.mark.parametrize("fault", ["lost-response", "truncate"])
def test_a_push_whose_answer_is_lost_is_found_and_not_repeated(outside: World, fault: str) -> None:
    outside.kaggle.fail(fault, op="SaveKernel")
    run = submit(outside)
    assert outside.kaggle.count("SaveKernel") == 1
    assert str(run.state()) == "QUEUED"


def test_a_push_that_never_arrived_goes_on_when_it_is_resumed(outside: World) -> None:
    before = runs(outside)
    outside.kaggle.fail("reset", op="SaveKernel")
    with pytest.raises(KaggleOpsError, match="no answer from Kaggle"):
        submit(outside)
    run_id = newest(outside, before)
    assert outside.run(run_id).info.status == "SCHEDULED"
    said = f"if it is yours and its submit failed, kaggleops resume {run_id[:8]}"
    with pytest.raises(KaggleOpsError, match=said):
        submitted_run(TRACKING, run_id).state()
    with pytest.raises(KaggleOpsError, match=said):
        list(submitted_run(TRACKING, run_id).logs())
    logs = kaggleops_here("logs", "--follow", run_id, "--bucket", BUCKET)  # and does not wait
    assert (logs.code, said in logs.error) == (1, True)
    assert str(again(run_id).state()) == "QUEUED"
    assert outside.kaggle.count("SaveKernel") == 2


def test_the_bucket_knows_where_the_notebook_is_before_kaggle_does(outside: World) -> None:
    stored: dict[str, bytes] = {}

    def look() -> None:
        stored.update((key, each.data) for key, each in outside.gcs.objects("our-bucket").items())

    outside.kaggle.fail("lost-response", op="SaveKernel", then=look)
    run = submit(outside)
    home = outside.run(run.run_id).info.experiment_id
    entity_id = entity_of(home, run.run_id)
    entity = unpack(stored[entity_id.key], entity_id, "the bucket")
    assert entity.files["tags/kaggle_notebook"].decode() == f"ada/kaggleops-{run.run_id}"
    assert entity.files["tags/submitted_to"] == b"kaggle"


def test_what_may_be_asked_twice_is(outside: World) -> None:
    outside.kaggle.fail(503, op="GetAcceleratorQuotaStatistics")
    outside.kaggle.fail(429, op="GetKernel", retry_after=0)
    outside.kaggle.fail("reset", op="GetKernelSessionStatus")
    outside.kaggle.fail(429, op="SaveKernel", retry_after=0)
    assert str(submit(outside).state()) == "QUEUED"


def test_every_state_has_a_meaning(outside: World) -> None:
    run = submit(outside)
    meanings = {
        "QUEUED": "SCHEDULED",
        "NEW_SCRIPT": "SCHEDULED",
        "RUNNING": "RUNNING",
        "CANCEL_REQUESTED": "RUNNING",
        "COMPLETE": "FINISHED",
        "ERROR": "FAILED",
        "CANCEL_ACKNOWLEDGED": "KILLED",
        "PREEMPTED": "UNKNOWN",  # nobody's word
    }
    for said, status in meanings.items():
        outside.kaggle.behaviour.statuses.append(said)
        state = run.state()
        assert state is not None
        assert (state.said, state.status) == (said, status)
    outside.kaggle.behaviour.statuses.append("PREEMPTED")
    assert run.get_status() == "SCHEDULED"


def test_a_job_that_ended_without_a_word_ends_its_run(outside: World) -> None:
    run = submit(outside)
    outside.kaggle.session(run.tags["kaggle_notebook"]).cancel()
    outside.kaggle.session(run.tags["kaggle_notebook"]).wait()
    assert run.get_status() == "KILLED"
    assert outside.run(run.run_id).info.status == "KILLED"
    assert "CANCEL_ACKNOWLEDGED" in run.tags["job_ended"]
    # And goes on as a second version of the same notebook.
    assert again(run.run_id).get_status() == "SCHEDULED"
    assert outside.kaggle.kernel(run.tags["kaggle_notebook"]).latest.number == 2


def test_how_a_job_ended_is_told_by_the_status_that_finds_out(outside: World) -> None:
    run = submit(outside)
    session = outside.kaggle.session(run.tags["kaggle_notebook"])
    session.cancel()
    session.wait()
    (row,) = kaggleops_here("status", run.run_id, "--bucket", BUCKET, "--json").json["runs"]
    assert (row["status"], row["failure"]) == ("KILLED", "CANCEL_ACKNOWLEDGED")


def test_somebody_elses_credentials(outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(outside)
    monkeypatch.setenv("KAGGLE_KEY", "nonsense")
    with pytest.raises(UsageError, match="does not accept this machine's credentials"):
        submitted_run(TRACKING, run.run_id).state()


def test_a_process_that_goes_on_takes_credentials_that_were_renewed(
    outside: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_named("kaggle")
    assert backend.quota()
    user = outside.kaggle._store.users["ada"]
    monkeypatch.setattr(user, "key", "a" * 32)
    with pytest.raises(UsageError, match="does not accept this machine's credentials"):
        backend.quota()
    monkeypatch.delenv("KAGGLE_USERNAME")
    with pytest.raises(UsageError, match="there are no credentials on this machine"):
        backend.quota()
    assert backend.place("a-run", backend.read_config({}, "a test"))  # it knows who it was
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", user.key)
    assert backend.quota()
    monkeypatch.setattr(user, "key", "")
    for token in ("KGAT_" + "a" * 32, "KGAT_" + "b" * 32):
        monkeypatch.setattr(user, "token", token)
        monkeypatch.setenv("KAGGLE_API_TOKEN", token)
        assert backend.quota()


def test_no_secret_is_in_what_is_pushed_or_in_the_bucket(outside: World) -> None:
    run = submit(outside)
    secrets = [outside.kaggle.environment("ada")["KAGGLE_KEY"], "CANARYa1B2"]
    stored = [each.data for each in outside.gcs.objects("our-bucket").values()]
    text = outside.kaggle.kernel(run.tags["kaggle_notebook"]).latest.text
    for secret in secrets:
        assert secret not in text
        assert not any(secret.encode() in data for data in stored)
