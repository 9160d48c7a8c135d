"""Colab Enterprise: executions that nobody's machine holds."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from kaggleops.backends.colab import enterprise
from kaggleops.backends.colab.backend import ColabBackend
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.lookup import resume
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests.fakes.colab.vertex import TEMPLATE, VertexServer

from .world import BUCKET, TRACKING, World

FIELDS = {"project": "our-project", "template": "t4", "service_account": "runner@p.example"}


@pytest.fixture(scope="module")
def vertex(outside: World) -> Iterator[VertexServer]:
    folder = outside.folder / "vertex"
    folder.mkdir()
    with VertexServer(folder, outside.gcs) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(folder).items():
            patch.setenv(name, value)
        enterprise._session.cache_clear()
        yield server
    enterprise._session.cache_clear()


def config(**fields: Any) -> Any:
    given = {"session_hours": 2, "enterprise": {**FIELDS, **fields}}
    return ColabBackend().read_config(given, "a test")


def submit(outside: World) -> RemoteRun:
    commit = find_commit(outside.repository.folder)
    return ColabBackend().submit(commit, Launch(TRACKING), config())


def executed(*lines: str) -> bytes:
    cell = nbformat.v4.new_code_cell("…")
    cell.outputs = [nbformat.v4.new_output("stream", text="\n".join(lines))]
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell])).encode()


def test_from_the_request_to_the_executed_notebook(
    outside: World, vertex: VertexServer, tmp_path: Path
) -> None:
    run = submit(outside)
    name = run.tags["colab_job"]
    asked = vertex.executions[name]
    assert name.endswith(f"/notebookExecutionJobs/kaggleops-{run.run_id}")
    assert asked["notebookRuntimeTemplateResourceName"] == TEMPLATE
    assert (asked["serviceAccount"], asked["executionTimeout"]) == ("runner@p.example", "7200s")
    assert asked["gcsOutputUri"] == f"{BUCKET}/colab/{run.run_id}"
    notebook = base64.b64decode(asked["directNotebookSource"]["content"]).decode()
    assert run.run_id in notebook
    assert run.page.endswith("execution-jobs?project=our-project")
    assert (run.state().status, run.state().said) == ("SCHEDULED", "QUEUED")

    # Submitted again, it is found there.
    resume(ColabBackend(), TRACKING, run.run_id, config())
    assert sum(each == "POST notebookExecutionJobs" for each in vertex.requests) == 1
    with pytest.raises(KaggleOpsError, match="when the execution has ended"):
        list(run.logs())
    vertex.end(name, "SUCCEEDED", executed=executed("it begins", "it goes on"))
    assert run.state().status == "FINISHED"
    assert list(run.logs(follow=True)) == ["it begins", "it goes on"]
    brought = run.download(tmp_path)
    assert [each.name for each in brought.files] == [f"kaggleops-{run.run_id}.ipynb"]


def test_one_that_failed_goes_on_as_another(outside: World, vertex: VertexServer) -> None:
    run = submit(outside)
    name = run.tags["colab_job"]
    vertex.end(name, "FAILED", "the runtime ran out of memory")
    assert run.get_status() == "FAILED"
    assert run.tags["job_ended"] == "FAILED: the runtime ran out of memory"
    again = resume(ColabBackend(), TRACKING, run.run_id, config())
    assert again.get_status() == "SCHEDULED"
    assert vertex.executions[name]["jobState"] == "JOB_STATE_QUEUED"
    vertex.end(name, "CANCELLED")
    assert again.get_status() == "KILLED"
    assert again.clean_up()
    assert not again.clean_up()


def test_an_answer_that_was_lost_makes_no_second_execution(
    outside: World, vertex: VertexServer
) -> None:
    before = set(vertex.executions)
    vertex.lose = True
    with pytest.raises(KaggleOpsError, match="cannot be reached"):
        submit(outside)
    (made,) = set(vertex.executions) - before
    run = resume(ColabBackend(), TRACKING, made.rpartition("-")[2], config())
    assert set(vertex.executions) - before == {made}
    assert run.tags["colab_output"].endswith(run.run_id)


def test_what_google_refuses_has_failed(outside: World, vertex: VertexServer) -> None:
    vertex.refuse = (403, "Permission 'aiplatform.notebookExecutionJobs.create' denied.")
    with pytest.raises(RefusedError, match=r"roles/aiplatform\.colabEnterpriseUser"):
        submit(outside)
    vertex.refuse = (429, "Quota exceeded.")
    with pytest.raises(KaggleOpsError, match=r"Quota exceeded.*kaggleops resume") as caught:
        submit(outside)
    assert not isinstance(caught.value, RefusedError)
    with pytest.raises(UsageError, match="there is no runtime template 'l4'"):
        ColabBackend().check(TRACKING, config(template="l4"))


@pytest.mark.slow
def test_the_notebook_trains_there(outside: World, vertex: VertexServer) -> None:
    run = submit(outside)
    variables = {"STORAGE_EMULATOR_HOST": outside.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
    vertex.execute(run.tags["colab_job"], **variables)
    log = "\n".join(run.logs())
    assert "the service account of Colab Enterprise" in log
    assert run.get_status() == "FINISHED", log
    assert json.loads(outside.run(run.run_id).data.params["alpha"]) == 0.1
