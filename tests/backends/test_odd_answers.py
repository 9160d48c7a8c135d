"""What Kaggle, a container engine, Colab and Vertex AI answer one day, and full disks."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import mlflow
import pytest
from kagglesdk.competitions.types import competition_api_service as competitions
from kagglesdk.kaggle_object import DateTimeSerializer, KaggleObject, ListSerializer
from kagglesdk.kernels.types import kernels_api_service as kernels

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.colab.cli import ColabCli, Session
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import RefusedError, Units
from kaggleops.backends.job_log import Once, until_silent
from kaggleops.backends.kaggle.backend import parsed
from kaggleops.backends.lookup import backend_named
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.errors import KaggleOpsError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.platforms.http import NoAnswerError, SilenceError
from kaggleops.platforms.kaggle import Kaggle
from kaggleops.platforms.kaggle.client import Word, read
from kaggleops.tracking.store import BucketTrackingStore
from tests.fakes.odd_answers import all_odd, odd, whole
from tests.fakes.wire import HttpServer, Request, Response

from .places import InDocker
from .test_commands import here
from .world import BUCKET, TRACKING, World

BUCKET_OPTION = ("--bucket", BUCKET)


@contextmanager
def changed(
    http: HttpServer, chosen: Callable[[Request], bool], answer: Response
) -> Iterator[None]:
    """Let some answers be another on their way."""
    http.change = lambda request, response: answer if chosen(request) else response
    yield
    http.change = lambda request, response: response


def check(*command: object) -> None:
    """Make sure that a command ends well or with one line; a trace would fail the test."""
    done = here(*command)
    assert done.code in (0, 1, 2)
    assert done.errors.count("error:") == (1 if done.code else 0), (command, done.errors)


def examine() -> None:
    """Make sure that `doctor` says something of each platform, whatever one of them answers."""
    done = here("doctor", *BUCKET_OPTION, "--json")
    about = {each["about"] for each in done.json["findings"]}
    assert {"kaggle", "colab", "runpod", "docker"} <= about


def refuses(backend: Any, run: RemoteRun, config: Any) -> bool:
    """Hand a run over again, and tell whether that was refused: then it counts as ended."""
    told = {"repository": "toy", "bucket": BUCKET, "run_id": run.run_id}
    try:
        backend.check(TRACKING, config)
        backend.send(run.tags, ready_notebook(told), config)
    except RefusedError:
        return True
    except KaggleOpsError:
        pass
    return False


# -- Kaggle --------------------------------------------------------------------------------------

KINDS = [
    kernels.ApiGetKernelResponse,
    kernels.ApiGetKernelSessionStatusResponse,
    kernels.ApiListKernelSessionOutputResponse,
    kernels.ApiListKernelFilesResponse,
    kernels.ApiSaveKernelResponse,
    kernels.ApiGetAcceleratorQuotaStatisticsResponse,
    competitions.ApiListSubmissionsResponse,
    competitions.ApiSubmissionLimits,
]


def sample(kind: Any) -> dict[str, Any]:
    """Return a message in JSON with all fields that its type has."""

    def of(field: Any) -> Any:
        kind = field.field_type
        if issubclass(kind, KaggleObject):
            return sample(kind)
        if issubclass(kind, Enum):
            return list(kind)[-1].name
        if isinstance(field.serializer, DateTimeSerializer) or kind is datetime:
            return "2026-11-01T12:00:00.5Z"
        if kind is timedelta:
            return "5400s"
        return {str: "a text", int: 7, float: 0.5, bool: True}.get(kind)

    made = {}
    for field in kind._fields:
        value = of(field)
        made[field.json_name] = [value] if isinstance(field.serializer, ListSerializer) else value
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_one_odd_field_of_kaggles_hides_no_other(kind: Any) -> None:
    good = sample(kind)
    expected = read(kind, good)
    assert expected.to_dict() == kind.from_dict(good).to_dict()
    fields = {each.json_name: each.private_field_name for each in kind._fields}
    for (name, *_), content in odd(good, depth=2):
        found = vars(read(kind, content))
        for other, own in fields.items():
            if other != name:
                assert str(found[own]) == str(vars(expected)[own])
    for content in [*all_odd(good), None, [], 7, "text"]:
        read(kind, content)


def test_a_word_that_is_new_is_shown_and_hides_no_other() -> None:
    kind = competitions.ApiListSubmissionsResponse
    good = {"ref": 1, "status": "COMPLETE", "publicScore": "0.5"}
    strange = {"ref": "2", "status": "RESCORING", "date": "soon", "publicScore": {}}
    first, second, third = read(kind, {"submissions": [strange, good, 7]}).submissions
    assert (first.ref, first.status, first.date) == (2, Word("RESCORING"), None)
    assert (second.ref, second.status.name, second.public_score) == (1, "COMPLETE", "0.5")
    assert third.ref == 0


def on_kaggle(outside: World) -> RemoteRun:
    backend = backend_named("kaggle")
    config = backend.read_config({"credentials": "ada/bucket-key", "machine_shape": ""}, "a test")
    return backend.submit(find_commit(outside.repository.folder), Launch(TRACKING), config)


def test_an_answer_of_kaggles_that_is_none(outside: World, tmp_path: Path) -> None:
    run = on_kaggle(outside)
    ref = f"ada/kaggleops-{run.run_id}"
    config = tmp_path / "kaggle.yaml"
    config.write_text("credentials: ada/bucket-key\nmachine_shape: ''\n")
    asked_by = {
        "GetKernel": [("resume", "--backend-config", config)],
        "GetKernelSessionStatus": [("status",)],
        "GetAcceleratorQuotaStatistics": [("quota", "-b", "kaggle")],
        "ListKernelSessionOutput": [("download",)],
        "ListKernelFiles": [("download",)],
        "live log": [("logs",)],
    }
    http = outside.kaggle._http
    assert http
    fields = run.backend.config_of(tmp_path, config)
    for op, commands in asked_by.items():
        for number, (_, answer) in enumerate(whole(json.dumps({"status": "RUNNING"}).encode())):
            with changed(http, lambda request, op=op: request.op == op, answer):  # type: ignore[misc]
                for name, *more in commands:
                    given = [run.run_id, *([tmp_path / "home"] if name == "download" else [])]
                    check(name, *more, *(() if name == "quota" else (*given, *BUCKET_OPTION)))
                backend = backend_named("kaggle")
                if op == "GetKernelSessionStatus":
                    assert not refuses(backend, run, fields)
                if op == "GetAcceleratorQuotaStatistics":
                    with suppress(KaggleOpsError):
                        assert list(backend.examine(fields))
                    if number == 0:
                        examine()
    assert outside.run(run.run_id).info.status == "SCHEDULED"
    assert len(outside.kaggle.kernel(ref).versions) == 1
    with changed(http, lambda request: True, Response(200)):
        check("cancel", run.run_id, *BUCKET_OPTION)
    assert outside.run(run.run_id).info.status == "KILLED"
    outside.kaggle.session(ref).cancel()


def test_a_push_that_kaggle_does_not_speak_of_is_found(outside: World) -> None:
    http = outside.kaggle._http
    assert http
    for name, answer in whole(b'{"ref": "ada/x"}'):
        if answer.status != 200:
            continue
        with changed(http, lambda request: request.op == "SaveKernel", answer):
            run = on_kaggle(outside)
        kernel = outside.kaggle.kernel(f"ada/kaggleops-{run.run_id}")
        assert (name, outside.run(run.run_id).info.status) == (name, "SCHEDULED")
        assert len(kernel.versions) == 1
        outside.kaggle.session(kernel.ref).cancel()


@pytest.mark.parametrize(
    "op", ["ListDatasets", "StartBlobUpload", "CreateDataset", "CreateDatasetVersion", "upload"]
)
def test_where_kaggle_keeps_the_key_it_may_answer_anything(outside: World, op: str) -> None:
    http, place = outside.kaggle._http, Kaggle
    assert http
    for _, answer in whole(b'{"ref": "ada/kaggleops-credentials"}'):
        with changed(http, lambda request: request.op == op, answer):
            for step in (lambda: place.put_key({"type": "fake"}), place.delete_key):
                with suppress(KaggleOpsError):
                    step()
        place.put_key({"type": "fake"})
        with changed(http, lambda request: request.op == op, answer), suppress(KaggleOpsError):
            place.put_key({"type": "fake"})
        place.delete_key()


def test_what_cannot_be_uploaded_is_not_tried_for_minutes(outside: World) -> None:
    http = outside.kaggle._http
    assert http
    outside.kaggle.reset_counts()
    page = dict(whole())["a page"]
    with (
        changed(http, lambda request: request.op == "StartBlobUpload", page),
        pytest.raises(KaggleOpsError, match="uploading the key to Kaggle: no answer from Kaggle"),
    ):
        Kaggle.put_key({"type": "fake"})
    assert outside.kaggle.count("StartBlobUpload") == 1


def test_a_log_that_is_silent_is_none_that_cannot_be_had() -> None:
    def entries(*parts: object) -> Callable[[], Iterator[str]]:
        readings, log = iter(parts), Once()

        def opened() -> Iterator[str]:
            texts, error = next(readings)  # type: ignore[misc]
            yield from log.new(texts)
            if error:
                raise error("reading", "no")

        return opened

    assert list(until_silent(entries(("ab", SilenceError)))) == ["a", "b"]
    # One that broke off is read on.
    assert list(until_silent(entries(("a", NoAnswerError), ("ab", None)))) == ["a", "b"]
    with pytest.raises(NoAnswerError):
        list(until_silent(entries(("", NoAnswerError))))
    assert [text for *_, text in parsed('["a", {"data": "b"}, 7]')] == ["a", "b", "7"]
    assert [text for *_, text in parsed('{"a": 1}')] == ['{"a": 1}']


# -- containers ----------------------------------------------------------------------------------


def test_an_answer_of_an_engines_that_is_none(outside: World, tmp_path: Path) -> None:
    place = InDocker(outside)
    try:
        run = place.submit()
        config = place.backend.read_config(place.fields, "a test")
        container = place.engine.named(run.tags["container"])

        described = json.loads(place.engine._inspect(None, container.id).body)  # type: ignore[arg-type]
        answers = [answer for _, answer in whole(json.dumps(described).encode())]
        for status in ("removing", "stopping", None, 7):
            described["State"]["Status"] = status
            answers.append(Response(200, answers[0].headers, json.dumps(described).encode()))
        for path in ("/info", f"/{container.name}/json"):
            for answer in answers:

                def chosen(request: Request, path: str = path) -> bool:
                    return request.method == "GET" and request.path.endswith(path)

                with changed(place.engine._http, chosen, answer):
                    check("status", run.run_id, *BUCKET_OPTION)
                    assert not refuses(type(place.backend)(), run, config)
                    if answer in answers[:4]:
                        check("logs", run.run_id, *BUCKET_OPTION)
                        check("download", run.run_id, tmp_path, *BUCKET_OPTION)
        assert [each.id for each in place.engine.containers] == [container.id]
        assert outside.run(run.run_id).info.status == "SCHEDULED"
        place.engine.session(container.name).cancel()
    finally:
        place.close()


# -- Colab ---------------------------------------------------------------------------------------


def test_what_the_command_line_of_colab_prints(tmp_path: Path) -> None:
    program = tmp_path / "colab"
    cli = ColabCli(str(program), "oauth2", tmp_path, tmp_path / "sessions.json")

    def prints(text: str, code: int = 0) -> None:
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    prints("Current balance: 1.2.3\nUsage rate: 1.76/hr")
    assert cli.usage() == Units("colab", None, 1.76)
    for text in ("", "Usage rate: ./hr", "Usage rate: -1/hr", "<html>", "Usage rate: 1..2/hr"):
        prints(text)
        assert cli.usage() is None
    prints("[a] m-1 | Hardware: T4\n[b] | Hardware\n\0\n[c] m-3 | Hardware: A100 | new: 7")
    assert cli.sessions() == [
        Session("a", "m-1", "T4"),
        Session("b", "", ""),
        Session("c", "m-3", "A100"),
    ]
    # No list is not the same as an empty one.
    prints("[colab] Signed in. Nothing to see here.")
    assert cli.sessions() is None
    prints("[colab] No active sessions found on server.")
    assert cli.sessions() == []
    prints("Traceback", 1)
    assert cli.sessions() is None


# -- disks ---------------------------------------------------------------------------------------


@contextmanager
def a_full_disk(at: int) -> Iterator[None]:
    """Let no file be longer than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_disk_is_full_the_rest_still_comes(tmp_path: Path) -> None:
    brought = Downloaded()
    with a_full_disk(at=100_000):
        for name, size in (("a", 1), ("b", 1_000_000), ("c" * 300, 1), ("d/e", 2)):
            brought.keep(tmp_path, name, lambda file, size=size: file.write(b"x" * size))  # type: ignore[misc]
    assert [(file.name, file.stat().st_size) for file in brought.files] == [("a", 1), ("e", 2)]
    full, long = brought.problems
    assert full == "downloading 'b': File too large."
    assert "File name too long" in long
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "d", "e"]


def test_an_artifact_for_which_there_is_no_room_is_named(outside: World, tmp_path: Path) -> None:
    run = on_kaggle(outside)
    client = mlflow.MlflowClient(TRACKING)
    client.log_text(run.run_id, "x" * 3_000_000, "models/large.txt")
    client.log_text(run.run_id, "small", "small\\1.txt")  # as a folder of Windows', unpacked here
    BucketTrackingStore(TRACKING).flush()
    with a_full_disk(at=2_000_000):
        done = here("download", run.run_id, tmp_path, *BUCKET_OPTION, "--json")
    assert (done.code, done.json["files"]) == (1, ["small\\1.txt"])
    (problem,) = done.json["problems"]
    assert problem.startswith("downloading 'models/large.txt': ")
    outside.kaggle.session(f"ada/kaggleops-{run.run_id}").cancel()


def test_a_backend_that_is_not_here_keeps_no_artifact_away(outside: World, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(TRACKING)
    run_id = client.create_run("0", tags={"submitted_to": "theirs"}).info.run_id
    client.log_text(run_id, "small", "small.txt")
    BucketTrackingStore(TRACKING).flush()
    done = here("download", run_id, tmp_path, *BUCKET_OPTION, "--json")
    assert (done.code, done.json["files"]) == (1, ["small.txt"])
    assert "choosing the backend 'theirs'" in done.json["problems"][0]
