"""`kaggleops open`: where a run, its notebook and its commit can be seen."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kaggleops.bucket import open_bucket
from kaggleops.mlruns import Entity, EntityStore, experiment, run
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.server.settings import server_folder
from tests.command import Done, kaggleops_here
from tests.mlruns.entities import run_meta

RUN = "3f2a91c0" + "1" * 24
TAGS = {
    "mlflow.source.git.commit": "e" * 40,
    "mlflow.source.git.repoURL": "git@github.com:ada/toy.git",
    "submitted_to": "kaggle",
    "kaggle_notebook": f"ada/kaggleops-{RUN}",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A bucket with one run."""
    folder = tmp_path / "a bucket"
    bucket = open_bucket(str(folder))
    bucket.prepare()
    add(folder, RUN, "sassy-fox-12", TAGS)
    return folder


def add(folder: Path, run_id: str, name: str, tags: dict[str, str]) -> None:
    bucket = open_bucket(str(folder))
    store = EntityStore(bucket)
    home = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}
    home["artifact_location"] = f"{bucket.artifact_uri}/artifacts/1"
    store.merge_in(Entity(experiment("1"), {META: dump_yaml(home)}))
    at = f"{bucket.artifact_uri}/artifacts/1/{run_id}/artifacts"
    meta = run_meta(artifact_uri=at, run_id=run_id, run_uuid=run_id, run_name=name)
    files = {f"tags/{tag}": value.encode() for tag, value in tags.items()}
    store.merge_in(Entity(run("1", run_id), {META: dump_yaml(meta), **files}))


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A browser that writes down what it opens."""
    opened, program = tmp_path / "opened", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    program.chmod(0o755)
    monkeypatch.setattr("webbrowser._tryorder", None)  # it looks once in a process
    monkeypatch.setenv("BROWSER", str(program))
    return opened


def here(place: Path, *arguments: object) -> Done:
    return kaggleops_here("open", *arguments, "--bucket", place)


def test_the_address_is_printed_and_opened(place: Path, browser: Path) -> None:
    pages = {
        "--commit": "https://github.com/ada/toy/commit/" + "e" * 40,
        "--notebook": f"https://www.kaggle.com/code/ada/kaggleops-{RUN}",
    }
    for option, page in pages.items():
        done = here(place, "sassy-fox-12", option)
        assert (done.code, done.output) == (0, f"{page}\n"), done.errors
    assert browser.read_text().split() == list(pages.values())
    assert here(place, RUN, "--commit", "--json").json == {
        "run_id": RUN,
        "address": pages["--commit"],
    }


def test_a_tag_that_is_gone_or_hostile_is_no_trace_and_no_other_text(
    place: Path, browser: Path
) -> None:
    add(place, "4" * 32, "gone", {"submitted_to": "kaggle"})
    done = here(place, "gone", "--notebook")
    assert (done.code, "it has no tag 'kaggle_notebook' any more" in done.error) == (1, True)
    add(place, "5" * 32, "hostile", {**TAGS, "kaggle_notebook": "a/b\n\x1b[2J <i>\u202e"})
    done = here(place, "hostile", "--notebook")
    page = "https://www.kaggle.com/code/a/b%0A%1B[2J%20%3Ci%3E%E2%80%AE"
    assert done.output.replace("\n", "") == page, done.errors
    assert browser.read_text() == f"{page}\n"


@pytest.mark.usefixtures("browser")
def test_a_run_without_such_a_page_is_one_line(place: Path) -> None:
    other = "4" * 32
    add(place, other, "by hand", {})
    assert "it has no commit" in here(place, "by hand", "--commit").error
    assert "was not submitted" in here(place, "by hand", "--notebook").error
    assert "no run" in here(place, "0" * 32).error
    assert "exclude each other" in here(place, RUN, "--commit", "--notebook").error


@pytest.fixture
def serving(place: Path) -> Iterator[dict[str, Any]]:
    """A server on this machine that says for which bucket it is."""
    says: dict[str, Any] = {"bucket": open_bucket(str(place)).uri}

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/kaggleops/health.json"
            self.send_response(says.get("code", 200))
            self.end_headers()
            self.wfile.write(json.dumps(says).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    says["url"] = f"http://127.0.0.1:{server.server_port}"
    yield says
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("browser")
def test_the_page_is_on_the_server_that_serves_the_bucket(
    place: Path, serving: dict[str, Any]
) -> None:
    page = f"#/experiments/1/runs/{RUN}"
    done = here(place, RUN)
    assert page in done.output
    assert f"Start it:  kaggleops ui --bucket {serving['bucket']}" in done.errors

    port = serving["url"].rpartition(":")[2]
    (server_folder(serving["bucket"]) / f"scratch-{port}").mkdir(parents=True)
    done = here(place, RUN)
    assert (done.output.startswith(f"{serving['url']}/{page}"), done.errors) == (True, "")
    serving["code"] = 401  # with --auth
    assert here(place, RUN).output.startswith(serving["url"])
    serving |= {"code": 200, "bucket": "gs://another"}
    assert "Nothing serves" in here(place, RUN).errors
