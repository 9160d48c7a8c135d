"""A bucket and a history whose every text would do something to a terminal, a page, a comment."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from markdown_it import MarkdownIt
from mlflow.entities import Dataset, DatasetInput

from kaggleops.bucket import open_bucket
from kaggleops.mlruns import EntityStore
from kaggleops.printable import printable
from kaggleops.reports.charts import last_runs, table
from tests.command import Done, kaggleops_here
from tests.hostile import HOSTILE, Page, unseen
from tests.reports.lab import EXPERIMENT, Lab

BRANCH = "x`<b>|@octocat\u202e"
"""As far as git lets a branch be called so."""


class HostileLab(Lab):
    """A lab with a commit, runs, and an object that are hostile in all that is text in them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        file = self.repository.folder / "src" / HOSTILE.replace("/", "_")[:80]
        file.write_text(f"{HOSTILE}\n")
        self.repository.git("add", ".")
        self.hostile = self.repository.commit(f"{HOSTILE} subject")
        self.repository.git("branch", BRANCH)
        tags = {"backend": HOSTILE, "git_branch": BRANCH, "mlflow.user": HOSTILE}
        self.run_id = self.log(self.hostile, HOSTILE, {"lr": HOSTILE}, 0.9, **tags)
        self.other = self.log(self.hostile, "plain", {"lr": "1"}, 0.8)
        self.open = self.log(self.hostile, HOSTILE, {}, 0.1, status="SCHEDULED", **tags)
        client = mlflow.MlflowClient(self.tracking_uri)
        elsewhere = client.create_experiment(f"{HOSTILE} experiment")
        client.create_run(elsewhere, run_name=HOSTILE, tags=tags)
        dataset = Dataset(HOSTILE, "0" * 8, "http", json.dumps({"url": HOSTILE}))
        client.log_inputs(self.run_id, [DatasetInput(dataset)])
        mlruns = self.bucket / "mlruns"
        (experiment,) = (
            each.experiment_id for each in client.search_experiments() if each.name == EXPERIMENT
        )
        (mlruns / experiment / f"{'a' * 32}.tar.gz").write_bytes(HOSTILE.encode())
        self.experiment = experiment


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileLab]:
    yield HostileLab(tmp_path_factory.mktemp("hostile"))
    mlflow.set_tracking_uri(None)


def here(lab: HostileLab, *arguments: object) -> Done:
    command, *rest = arguments
    return kaggleops_here(
        command, "--bucket", lab.bucket, *rest, cwd=lab.repository.folder, COLUMNS="80"
    )


def test_no_command_prints_anything_that_a_terminal_obeys(lab: HostileLab, tmp_path: Path) -> None:
    shown = ""
    for arguments in (
        ("status",),
        ("status", "--since", "100000d"),
        ("status", "--json"),
        ("compare", lab.base, lab.hostile),
        ("compare", lab.run_id, lab.other),
        ("compare", HOSTILE),
        ("compare", lab.base, lab.hostile, "--markdown"),
        ("compare", lab.base, lab.hostile, "--json"),
        ("leaderboard", "--metric", "jaccard"),
        ("leaderboard", "--metric", HOSTILE),
        ("run", "--version", lab.hostile, "--require", f"{HOSTILE}>1"),
        ("reproduce", lab.run_id, "--against", lab.other),
        ("cost",),
        ("logs", lab.run_id),
        ("logs", HOSTILE),
        ("cancel", lab.open),
        ("cancel", HOSTILE),
        ("resume", lab.run_id),
        ("download", lab.run_id, tmp_path / "there"),
        ("submit", lab.run_id),
        ("forget", lab.run_id),
        ("forget", "--user", HOSTILE),
        ("export", tmp_path / "exported"),
        ("push",),
        ("run", "--version", lab.hostile, HOSTILE),
        ("run", "--version", BRANCH, "no=such"),
        ("doctor",),
    ):
        done = here(lab, *arguments)
        assert "Traceback" not in done.errors, arguments
        assert "Usage: " not in done.errors, (arguments, done.errors)
        for text in (done.output, done.errors):
            assert not unseen(text), (arguments, text)
        shown += done.output + done.errors
    assert printable(HOSTILE).strip() in shown
    assert f"{printable(HOSTILE)} subject" in shown


def test_nor_does_it_on_a_terminal(lab: HostileLab, cold_python: None) -> None:
    """Colours are ours, which a process chooses when it begins: here, cold."""
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "kaggleops",
        "status",
        "--bucket",
        str(lab.bucket),
        "--since",
        "99999d",
    ]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "4000"}
    process = subprocess.Popen(
        command, stdout=slave, stderr=slave, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(slave)
    said = b""
    try:
        while more := os.read(master, 1 << 16):
            said += more
    except OSError:  # its end is closed
        pass
    os.close(master)
    assert process.wait(60) in (0, 1)
    text = said.decode().replace("\r\n", "\n")
    ours = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r\x1b\[1?[AK2]+|\x1b\[2K|\x1b\[1A|\r")
    assert ours.search(text)
    assert not unseen(ours.sub("", text))
    assert printable(HOSTILE).strip() in text
    assert "\x1b[1mx" not in text
    assert "\x1b]8" not in text


def test_the_page_has_no_element_of_others(lab: HostileLab, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    done = here(lab, "compare", lab.base, lab.hostile, "--html", file)
    assert done.code == 0, done.errors
    page = Page()
    page.feed(file.read_text())
    assert not {"img", "a", "b", "!--", "iframe"} & set(page.tags)
    assert page.tags.count("script") == 2  # the data and our own
    assert not {"href", "src", "onerror"} & {name for name, _ in page.attributes}
    assert page.tags.count("body") == page.tags.count("html") == 1
    assert not unseen(file.read_text())
    assert printable(HOSTILE) in page.text


def test_the_comment_is_text(lab: HostileLab) -> None:
    text = here(lab, "compare", lab.base, lab.hostile, BRANCH, "--markdown").output
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Page()
    page.feed(html)
    assert not page.linked
    assert set(page.tags) <= {
        *("h3", "p", "strong", "ul", "li", "code", "pre", "details", "summary", "blockquote"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert not [each for each in page.attributes if each[0] not in ("style", "class")]
    assert f"{printable(HOSTILE)} subject" in page.text
    assert not unseen(text)


def test_the_table_of_a_notebook_is_text(lab: HostileLab) -> None:
    client = mlflow.MlflowClient(lab.tracking_uri)
    store = EntityStore(open_bucket(str(lab.bucket)))
    text = table(last_runs(client, store, lab.experiment))
    assert not unseen(text)
    assert r"\x1b[2J" in text


def test_json_holds_it_as_it_is(lab: HostileLab) -> None:
    rows = here(lab, "status", "--json", "--since", "100000d").json["runs"]
    assert HOSTILE in [row["name"] for row in rows]
    assert json.dumps(HOSTILE)[1:-1] in here(lab, "status", "--json", "--since", "100000d").output
