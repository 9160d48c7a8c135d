"""Artifacts of runs, and files on the web."""

import gzip
import hashlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import kaggleops
from kaggleops.bucket import Bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.edits import add_entry, manifest_here
from kaggleops.resources.files import FOLDER as STAGING
from kaggleops.resources.files import DamagedError, Staging
from kaggleops.resources.lock import is_locked, read_lock
from kaggleops.resources.manifest import Manifest
from kaggleops.resources.origins import GoneError
from kaggleops.resources.sync import compare, fetch, lock
from tests.buckets import EACH_KIND
from tests.fakes.faults import Fault, Faults
from tests.fakes.wire import Delivery, HttpServer, Request, Response, ranged

from .conftest import Project


class Lab:
    """Runs with an out-of-fold table each."""

    def __init__(self, bucket: Bucket) -> None:
        self.client = mlflow.MlflowClient(tracking_uri(bucket.uri))
        self.experiment = self.client.create_experiment("tweets")

    def run(self, jaccard: float, commit: str, status: str = "FINISHED", **more: str) -> str:
        tags = {"mlflow.source.git.commit": commit, **more}
        run_id: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.client.log_metric(run_id, "jaccard", jaccard)
        self.client.log_text(run_id, f"id,jaccard\n1,{jaccard}\n", "tables/oof.csv")
        self.client.log_text(run_id, "notes", "notes.txt")
        self.client.set_terminated(run_id, status)
        return run_id


@pytest.fixture
def lab(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(bucket.uri))
    return Lab(bucket)


@EACH_KIND
def test_the_artifacts_of_a_run(lab: Lab, project: Project) -> None:
    run_id = lab.run(0.6, "a" * 40)
    manifest = project.declare(
        all={"source": f"runs:/{run_id}"},
        oof={"source": f"runs:/{run_id}/tables", "files": ["oof.csv"]},
        gone={"source": f"runs:/{'0' * 32}"},
    )
    fetch(manifest, ["all", "oof"])
    table = b"id,jaccard\n1,0.6\n"
    assert project.files("data/all") == {"tables/oof.csv": table, "notes.txt": b"notes"}
    assert project.files("data/oof") == {"oof.csv": table}
    with pytest.raises(GoneError, match="there is no run 0000"):
        fetch(manifest, ["gone"])


def test_the_best_run_is_the_one_that_was_locked(lab: Lab, project: Project) -> None:
    lab.run(0.5, "a" * 40)
    best = lab.run(0.7, "a" * 40)
    lab.run(0.8, "b" * 40)
    lab.run(0.9, "a" * 40, "FAILED")
    patched = lab.run(0.95, "a" * 40, uncommitted="see uncommitted.patch")  # it is no commit's
    lab.run(0.96, "a" * 40, **{"mlflow.parentRunId": patched})
    asked = {"source": "runs:/best/tables", "experiment": "tweets", "metric": "jaccard"}
    manifest = project.declare(oof={**asked, "commit": "aaaaaaa"})
    assert lock(manifest)["oof"].origin == best
    lab.run(0.75, "a" * 40)  # later, and better
    (table,) = kaggleops.resources("oof").read_csv()["jaccard"]
    assert table == 0.7
    (project.folder / "data/oof/oof.csv").unlink()
    fetch(manifest)
    assert project.files()["oof/oof.csv"].endswith(b"0.7\n")
    lock(manifest)
    fetch(manifest)
    assert project.files()["oof/oof.csv"].endswith(b"0.75\n")
    worst = {**asked, "lower_is_better": True}
    fetch(project.declare(oof=worst))
    assert project.files()["oof/oof.csv"].endswith(b"0.5\n")
    for wrong, said in (
        ({"experiment": "nothing"}, "there is no experiment 'nothing'"),
        ({"commit": "ccccccc"}, "no finished run of tweets of commit ccccccc has jaccard"),
        ({"metric": "f1"}, "no finished run of tweets has f1"),
    ):
        with pytest.raises(UsageError, match=said):
            fetch(project.declare(oof={**asked, **wrong}))


def test_runs_without_a_bucket(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match=r"no bucket is named. Write `bucket:"):
        fetch(project.declare(oof={"source": "runs:/abc"}))


# -- the web -----------------------------------------------------------------------------------

WORDS = b"word\n" * 300_000


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Web:
    """A site with one file, which can misbehave."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.content: bytes | None = WORDS
        self.ranges = True
        self.sent: list[int] = []
        self.asked: list[Request] = []
        self.http = HttpServer(self._answer)

    def fail(self, kind: int | str, times: int | None = 1) -> Fault:
        everything = (lambda request: True, None, None, lambda: None, 1.0, 0)
        return self.faults.add(Fault(kind, times, *everything))

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        self.asked.append(request)
        fault = self.faults.strike(request)
        if fault and isinstance(fault.kind, int):
            return Response(fault.kind), "whole"
        if fault and fault.kind == "reset":
            return Response(), "not"
        if self.content is None:
            return Response(404), "whole"
        answer = ranged(request, [], self.content)
        if not self.ranges:
            answer = Response(200, [], self.content)
        self.sent.append(len(answer.body) // (2 if fault else 1))
        return answer, "half" if fault else "whole"


@pytest.fixture
def web() -> Iterator[Web]:
    site = Web()
    yield site
    site.http.stop()


def test_a_file_on_the_web(web: Web, project: Project) -> None:
    source = {"source": f"{web.http.url}/files/words.txt?raw=1"}
    right = sha256(WORDS)
    manifest = project.declare(words={**source, "checksum": right})
    web.fail(503)
    fetch(manifest)
    assert project.files() == {"words/words.txt": WORDS}
    lock(manifest)  # its checksum is what it was: nothing comes
    (project.folder / "data/words/words.txt").unlink()
    web.fail("truncate", times=None)
    with pytest.raises(KaggleOpsError, match="fetching http"):
        fetch(manifest)
    assert {name.split("/")[1] for name in project.files()} == {STAGING}  # what had come of it
    web.faults.clear()
    web.content = b"other words"
    with pytest.raises(DamagedError, match="it has 11 bytes instead of 1,500,000"):
        fetch(manifest)
    with pytest.raises(DamagedError, match=r"its checksum is md5:\w+ instead of md5:0000"):
        fetch(project.declare(words={**source, "checksum": "md5:" + "0" * 32}))
    assert project.files() == {}
    web.content = None
    with pytest.raises(GoneError, match=r"words.txt\?raw=1: it is gone \(404\)"):
        fetch(manifest)


def test_what_came_stays_when_another_source_fails(web: Web, project: Project) -> None:
    there = {"source": f"{web.http.url}/words.txt", "checksum": sha256(WORDS)}
    gone = {"source": f"{web.http.url}/gone.txt", "checksum": sha256(b"gone")}
    manifest = project.declare(words=there, words_2=gone)
    with pytest.raises(KaggleOpsError, match=r"gone.txt: it has 1,500,000 bytes|its checksum is"):
        lock(manifest)
    assert list(read_lock(manifest)) == ["words"]
    web.sent.clear()
    fetch(manifest, ["words"])
    lock(manifest, ["words"])
    project.lock.unlink()
    assert fetch(manifest, ["words"]).right == 1  # what is here is what the manifest says
    assert web.sent == []


def declared(web: Web, project: Project) -> Manifest:
    source = f"{web.http.url}/words.txt"
    return project.declare(words={"source": source, "checksum": sha256(WORDS)})


def test_what_broke_off_is_gone_on_with(web: Web, project: Project) -> None:
    manifest = declared(web, project)
    web.fail("truncate", times=5)  # each brings half of what is missing
    told: list[int] = []
    fetch(manifest, progress=told.append)
    assert project.files() == {"words/words.txt": WORDS}
    assert (len(web.sent), sum(told)) == (6, len(WORDS))
    assert len(WORDS) <= sum(web.sent) < len(WORDS) + 5 * 2**16  # less than a piece again


def test_a_site_that_knows_no_ranges_sends_it_all_again(web: Web, project: Project) -> None:
    web.ranges = False
    web.fail("truncate", times=2)
    told: list[int] = []
    fetch(declared(web, project), progress=told.append)
    assert project.files() == {"words/words.txt": WORDS}
    assert (sum(web.sent), sum(told)) == (2 * len(WORDS), len(WORDS))


def test_the_next_command_goes_on_where_one_gave_up(web: Web, project: Project) -> None:
    manifest = declared(web, project)
    web.ranges = False
    web.fail("truncate", times=None)
    with pytest.raises(KaggleOpsError, match="Check the address and the network"):
        fetch(manifest)
    assert len(web.sent) == 4  # the first brought half of it, and three brought nothing more
    web.faults.clear()
    web.ranges = True
    fetch(manifest)
    assert project.files() == {"words/words.txt": WORDS}
    assert len(WORDS) // 2 <= sum(web.sent[4:]) < len(WORDS) // 2 + 2**16


def test_a_site_that_says_no_is_asked_once(web: Web, project: Project) -> None:
    refused = web.fail(403, times=None)
    with pytest.raises(KaggleOpsError, match="403"):
        fetch(declared(web, project))
    assert refused.hits == 1


def test_what_was_whole_when_its_process_died_does_not_come_again(
    web: Web, project: Project
) -> None:
    fetch(declared(web, project))
    (project.folder / "data/words/words.txt").unlink()
    locked = read_lock(declared(web, project))["words"].files[0]
    Staging(project.folder / "data/words").part(locked).write_bytes(WORDS)
    web.sent.clear()
    fetch(declared(web, project))
    assert (project.files(), sum(web.sent)) == ({"words/words.txt": WORDS}, 0)


def test_a_beginning_of_something_else_is_forgotten(web: Web, project: Project) -> None:
    manifest = declared(web, project)
    fetch(manifest)
    locked = read_lock(manifest)["words"].files[0]
    for wrong in (b"x" * 10, b"x" * (len(WORDS) + 1)):
        (project.folder / "data/words/words.txt").unlink()
        Staging(project.folder / "data/words").part(locked).write_bytes(wrong)
        fetch(manifest)
        assert project.files() == {"words/words.txt": WORDS}


def test_status_asks_the_site(web: Web, project: Project) -> None:
    manifest = declared(web, project)
    fetch(manifest)
    (status,) = compare(manifest)
    assert status.right
    web.content = WORDS[1:]
    (status,) = compare(manifest)
    assert status.source == {"changed": ["words.txt"]}
    web.content = None
    (status,) = compare(manifest)
    assert status.source == {"gone": ["words.txt"]}
    web.fail(403, times=None)
    (status,) = compare(manifest)
    assert "looking for http://127.0.0.1" in status.problem
    assert "403" in status.problem


def test_status_of_a_site_that_is_dead(project: Project) -> None:
    site = Web()
    manifest = declared(site, project)
    fetch(manifest)
    site.http.stop()
    (status,) = compare(manifest)
    assert "Check the address and the network" in status.problem
    assert not status.right


def test_a_dry_run_asks_no_site(project: Project) -> None:
    source = {"source": "http://127.0.0.1:9/x.csv", "checksum": "md5:" + "0" * 32}
    manifest = project.declare(x=source)
    assert fetch(manifest, dry_run=True).size == 0
    assert project.files() == {}


PASSWORD, TOKEN = "correct-horse", "battery-staple"


def secrets_beside(project: Project, *texts: str) -> list[str]:
    """Return where a password or token stands: in a text, or in a file of the project."""
    files = project.files(".")
    files.pop("config/data/resources.yaml", None)  # where somebody wrote it
    everything = {**files, **{str(at): text.encode() for at, text in enumerate(texts)}}
    return [
        name
        for name, content in everything.items()
        if PASSWORD.encode() in content or TOKEN.encode() in content
    ]


def test_a_password_in_an_address_goes_to_the_site_alone(
    web: Web,
    bucket: Bucket,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(bucket.uri))
    site = web.http.url.removeprefix("http://")
    source = f"http://ada:{PASSWORD}@{site}/words.txt?v=1&token={TOKEN}"
    manifest = project.declare(words={"source": source, "checksum": sha256(WORDS)})
    said = []
    web.fail(403, times=None)
    with pytest.raises(KaggleOpsError) as refused:
        fetch(manifest)
    said += traceback.format_exception(refused.value)
    web.faults.clear()
    web.fail("reset")  # urllib3 warns of it
    lock(manifest)
    assert "?v=1&token=***" in caplog.text
    web.fail(403, times=None)
    said += [compare(manifest)[0].problem]
    web.faults.clear()
    assert f"http://***@{site}/words.txt?v=1&token=***" in "".join(said)
    with mlflow.start_run() as run:
        assert kaggleops.resources("words").open("words.txt").read(4) == b"word"
    assert web.asked[-1].headers["Authorization"].startswith("Basic ")
    assert web.asked[-1].query == {"v": "1", "token": TOKEN}
    (read,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert read.dataset.source == json.dumps({"url": f"http://***@{site}/words.txt?v=1&token=***"})
    in_bucket = [
        gzip.decompress(data) if entry.key.endswith(".gz") else data
        for entry in bucket.list()
        if (data := bucket.read(entry.key).data)
    ]
    texts = [*said, *(data.decode(errors="replace") for data in in_bucket), caplog.text]
    assert secrets_beside(project, *texts) == []
    # A lock that was written with them still holds, and is rid of them when it is next written.
    project.lock.write_text(project.lock.read_text().replace("***@", f"ada:{PASSWORD}@"))
    locked = read_lock(manifest)["words"]
    assert is_locked(manifest["words"], {"words": locked})
    lock(manifest)
    assert secrets_beside(project) == []


def test_ways_to_give_a_token_that_is_no_address(
    web: Web,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checksum = sha256(WORDS)
    url = f"{web.http.url}/words.txt"
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login ada password {PASSWORD}\n")
    netrc.chmod(0o600)

    def asks(**entry: str) -> Request:
        manifest = project.declare(words={"checksum": checksum, **entry})
        web.fail(503)
        fetch(manifest)
        (project.folder / "data/words/words.txt").unlink()
        return web.asked[-1]

    manifest = project.declare(words={"checksum": checksum, "source": f"{url}?q=${{WORDS_TOKEN}}"})
    with pytest.raises(UsageError, match=r"the variable WORDS_TOKEN is not set. Set it to what"):
        fetch(manifest)
    monkeypatch.setenv("WORDS_TOKEN", TOKEN)
    assert asks(source=f"{url}?q=${{WORDS_TOKEN}}").query == {"q": TOKEN}
    monkeypatch.setenv("NETRC", str(netrc))
    assert asks(source=url).headers["Authorization"].startswith("Basic ")
    assert asks(source=url, token="WORDS_TOKEN").headers["Authorization"] == f"Bearer {TOKEN}"
    manifest = project.declare(words={"checksum": checksum, "source": f"{url}?q=${{WORDS_TOKEN}}"})
    web.fail(403)
    with pytest.raises(KaggleOpsError) as refused:
        fetch(manifest)
    said = traceback.format_exception(refused.value)
    assert secrets_beside(project, *said, caplog.text) == []
    with pytest.raises(UsageError, match="`token` is for an https:// source"):
        project.declare(words={"source": "gs://b-1/x", "token": "WORDS_TOKEN"})


@pytest.mark.parametrize(
    "source", [f"https://ada:{PASSWORD}@host/x", f"https://host/x?v=1&token={TOKEN}"]
)
def test_no_secret_is_declared(source: str, project: Project) -> None:
    path = manifest_here(project.folder)
    with pytest.raises(UsageError, match=r"source: .* holds a secret") as refused:
        add_entry(path, "x", {"source": source, "checksum": sha256(b"")})
    assert secrets_beside(project, str(refused.value)) == []
    token = "gh" + "p_" + "a1B2c3D4e5" * 4
    with pytest.raises(UsageError, match=r"token: .* holds a secret"):
        add_entry(path, "x", {"source": "https://host/x", "token": token})
    kept = {"x": "https://ada:${PW}@host/x", "y": "https://host/y?token=${TOKEN}"}
    for name, address in kept.items():
        add_entry(path, name, {"source": address, "checksum": sha256(b"")})
