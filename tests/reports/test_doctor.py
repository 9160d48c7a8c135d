"""`kaggleops doctor`: what a run needs, one line each, with what to do."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kaggleops.backends.interface import Finding
from kaggleops.cli import main
from kaggleops.reports.doctor import asked, examine, examine_platforms
from kaggleops.server.tunnel import examine_server
from tests.command import kaggleops
from tests.fakes import iap_tunnel
from tests.fakes.colab.account import FakeColab
from tests.fakes.docker_engine import DockerEngine
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository, git_daemon
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.s3_server import S3Server
from tests.fakes.skypilot import SkyPilot
from tests.fakes.wire import Delivery, HttpServer, Request, Response

MACHINE = "projects/adas-runs/zones/us-east1-b/instances/kaggleops"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without whatever accounts whoever runs the tests may have."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [each for each in os.environ if each.startswith(("KAGGLE_", "RUNPOD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")


@pytest.fixture
def code(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "code")
    repository.write(train_py="")
    repository.commit("Train")
    return repository


def of_server(**health: Any) -> Callable[[Request], tuple[Response, Delivery]]:
    """Answer as a server's health page."""

    def answer(request: Request) -> tuple[Response, Delivery]:
        if request.path == "/health":  # MLflow's own
            return Response(), "whole"
        assert request.path == "/kaggleops/health.json"
        return Response(200, [], json.dumps(health).encode()), "whole"

    return answer


@contextmanager
def remote(folder: Path, **health: Any) -> Iterator[Path]:
    """A machine behind IAP whose server answers so; yields a folder with a `gcloud`."""
    http = HttpServer(of_server(**health))
    iap_tunnel.install(folder / "bin", MACHINE, int(http.url.rpartition(":")[2]))
    yield folder / "bin"
    http.stop()


def test_a_healthy_machine(code: Repository, gcs_server: GcsServer, tmp_path: Path) -> None:
    gcs_server.create_bucket("our-bucket")
    (code.folder / ".git/info/exclude").write_text("config")
    (code.folder / "config").mkdir()
    settings = f"bucket: gs://our-bucket\nserver: {MACHINE}\n"
    (code.folder / "config/local.yaml").write_text(settings)
    storage = {name: os.environ[name] for name in ("STORAGE_EMULATOR_HOST", "KAGGLEOPS_HOME")}
    same = {"kaggleops": version("kaggleops"), "mlflow": version("mlflow")}
    with (
        KaggleServer(tmp_path / "kaggle") as kaggle,
        RunPodServer(tmp_path / "runpod") as runpod,
        DockerEngine(tmp_path) as docker,
        FakeColab(tmp_path / "colab") as colab,
        remote(tmp_path, status="fresh", versions=same) as gcloud,
        git_daemon(tmp_path) as address,
    ):
        code.git("remote", "add", "origin", f"{address}/code")
        kaggle.add_user("ada", gpu_hours=30)
        programs = [gcloud, colab.folder, SkyPilot(tmp_path / "skypilot").folder]
        environment = {
            **kaggle.environment("ada"),
            **runpod.environment(),
            **storage,
            "DOCKER_HOST": docker.url,
            "KAGGLEOPS_NOTIFY": "json://127.0.0.1",
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        }
        done = kaggleops("doctor", "--json", cwd=code.folder, **environment)
    assert done.code == 0, done.errors
    findings = done.json["findings"]
    assert {each["verdict"] for each in findings} == {"ok"}, findings
    assert list(dict.fromkeys(each["about"] for each in findings)) == [
        *("python", "versions", "commit", "remote", "credentials"),
        *("bucket", "reading", "writing", "clock", "deleting"),
        *("colab", "docker", "kaggle", "local", "runpod", "skypilot", "server", "notices"),
    ]
    said = [each["said"] for each in findings]
    assert any("signed in as ada, 30.0 of 30 h GPU are left" in each for each in said)
    assert f"both ends have kaggleops {version('kaggleops')}" in said
    assert not gcs_server.objects("our-bucket")


def test_nobody_needs_every_platform(capsys: pytest.CaptureFixture[str]) -> None:
    found = {each.about: each for each in examine_platforms(Path())}
    assert capsys.readouterr().out == ""
    assert found.pop("local").verdict == "ok"
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(
        ["kaggle", "colab", "runpod", "docker", "skypilot"], "skipped"
    )
    assert "kaggle auth login" in found["kaggle"].hint
    assert "uv tool install google-colab-cli" in found["colab"].hint
    assert "RUNPOD_API_KEY" in found["runpod"].hint
    assert "Start Docker" in found["docker"].hint
    assert "uv tool install 'skypilot" in found["skypilot"].hint


def test_a_backends_file_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config/backend").mkdir(parents=True)
    Path("config/backend/docker.yaml").write_text("gpu: all\n")
    found = {each.about: each for each in examine_platforms(Path())}["docker"]
    assert (found.verdict, found.hint) == ("error", "Did you mean gpus?")
    assert "there is no field 'gpu'" in found.said


def test_what_is_set_up_and_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunPodServer(tmp_path / "runpod") as runpod, FakeColab(tmp_path / "colab") as colab:
        colab.behave(signed_out=True)
        monkeypatch.setenv("PATH", f"{colab.folder}:{os.environ['PATH']}")
        monkeypatch.setenv("RUNPOD_API_URL", runpod.url)
        monkeypatch.setenv("RUNPOD_API_KEY", "of somebody else")
        found = {each.about: each for each in examine_platforms(Path())}
        Path("config/backend").mkdir(parents=True)
        Path("config/backend/colab.yaml").write_text("auth: adc\ncli: my-colab\n")
        colab.program.with_name("my-colab").symlink_to(colab.program)
        configured = {each.about: each for each in examine_platforms(Path())}["colab"]
    assert found["colab"].verdict == "warning"
    assert "auth oauth2 usage" in found["colab"].hint
    assert "my-colab is not signed in" in configured.said
    assert "gcloud auth application-default login --scopes=" in configured.hint
    assert found["runpod"].verdict == "error"
    assert "does not accept the API key" in found["runpod"].said


def test_a_server_that_is_old_in_two_ways_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.verdict for each in examine_server(tmp_path)] == ["skipped"]
    (tmp_path / "config").mkdir()
    (tmp_path / "config/local.yaml").write_text(f"server: {MACHINE}\n")
    theirs = {"kaggleops": "0.0.1", "mlflow": version("mlflow")}
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with remote(tmp_path, status="old", trouble="the bucket is silent", versions=theirs):
        old, differing = examine_server(tmp_path)
    assert (old.verdict, differing.verdict) == ("warning", "warning")
    assert "its index is old: the bucket is silent" in old.said
    assert "kaggleops 0.0.1 there" in differing.said
    (gone,) = asked("server", lambda: examine_server(tmp_path))
    assert gone.verdict == "error"
    assert "gcloud compute instances start kaggleops" in gone.hint


def test_what_is_wrong_is_said_with_a_way_out(code: Repository, gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    gcs_server.deny("our-bucket", write=True)
    code.write(train_py="changed")
    done = kaggleops("doctor", "--bucket", "gs://our-bucket", cwd=code.folder)
    assert done.code == 1
    assert "Traceback" not in done.errors
    lines = done.output.splitlines()
    assert any(
        line.startswith("! commit") and "train.py is not committed" in line for line in lines
    )
    assert any(line.startswith("! remote") for line in lines)
    assert any(line.startswith("✗ bucket") and "gs://our-bucket" in line for line in lines)


def test_without_a_repository_and_a_bucket(tmp_path: Path) -> None:
    found = {each.about: each for each in examine(None, tmp_path)}
    assert found["bucket"].verdict == "error"
    assert found["git"].verdict == "error"
    assert "git init" in found["git"].hint


def test_settings_that_nobody_can_read(code: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(code.folder)
    Path("config").mkdir()
    for text, problem in (
        ("bucket: x\n[1,2", "line 2: "),
        ("- bucket: x", "it has no lines `name: value`"),
        ("bucket: ftp://x", "unsupported bucket scheme ftp://"),
        ("bucket: s3://runs\nendpoint: a/path", "'a/path' is no URL of a service"),
    ):
        Path("config/local.yaml").write_text(text)
        done = CliRunner().invoke(main, ["doctor", "--json"])
        assert done.exit_code == 1
        findings = json.loads(done.stdout)["findings"]
        assert {"python", "commit", "kaggle"} <= {each["about"] for each in findings}
        (broken,) = (each for each in findings if each["verdict"] == "error")
        assert broken["about"] == "settings"
        assert problem in broken["said"]


def found_at(place: str, folder: Path) -> dict[str, Finding]:
    return {each.about: each for each in examine(place, folder)}


def test_a_bucket_of_another_service(code: Repository, s3_server: S3Server) -> None:
    s3_server.create_bucket("our-bucket")
    place = s3_server.address("our-bucket", "runs")
    found = found_at(place, code.folder)
    for about in ("credentials", "bucket", "reading", "writing", "conditions", "clock", "deleting"):
        assert found[about].verdict == "ok", found[about]
    assert "honours conditional writes" in found["conditions"].said
    assert [key.rpartition("/")[2] for key in s3_server.objects("our-bucket")] == [
        "conditions.json"
    ]


def test_a_service_that_has_begun_to_ignore_conditions(
    code: Repository, s3_server: S3Server
) -> None:
    s3_server.create_bucket("our-bucket")
    place = s3_server.address("our-bucket")
    assert found_at(place, code.folder)["conditions"].verdict == "ok"
    s3_server.ignores_conditions = ("multipart", "delete")
    found = found_at(place, code.folder)["conditions"]
    assert found.verdict == "warning"
    assert "but not in parts: " in found.said
    assert "but not conditional deletes: " in found.said
    s3_server.ignores_conditions = ("write",)
    found = found_at(place, code.folder)["conditions"]
    assert found.verdict == "error"
    assert s3_server.url.removeprefix("http://") in found.said
    assert "so that runs would overwrite each other" in found.said


def test_an_access_key_that_is_wrong_or_not_there(
    code: Repository, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.create_bucket("our-bucket")
    s3_server.add_key("another-key", "of somebody else")
    place = s3_server.address("our-bucket")
    found = found_at(place, code.folder)
    assert found["credentials"].verdict == "ok"
    assert "the access key was refused" in found["bucket"].said
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = found_at(place, code.folder)
    assert found["credentials"].verdict == "error"
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in found["credentials"].hint


def test_a_clock_that_is_wrong(code: Repository, gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    found: dict[str, Finding] = {}
    for finding in examine("gs://our-bucket", code.folder):
        found[finding.about] = finding
        if finding.about == "writing":
            for key in gcs_server.objects("our-bucket"):
                gcs_server.age("our-bucket", key, hours=1)
    assert found["clock"].verdict == "warning"
    assert "ahead of the bucket's" in found["clock"].said
    assert not gcs_server.objects("our-bucket")
