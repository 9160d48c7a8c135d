"""What a training prints: lines where a notebook shows it, and an artifact of its run."""

import gc
import os
import pty
import resource
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kaggleops.bucket import Bucket
from kaggleops.cli import jobs
from kaggleops.launch import output
from kaggleops.launch.output import BAR_INTERVAL, GAP, Lines, Output
from kaggleops.layout import OUTPUT
from tests.command import kaggleops_here
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository
from tests.tracking.processes import Training


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whole_lines_come_at_once_and_pieces_when_they_are_whole() -> None:
    shown: list[str] = []
    lines = Lines(shown.append)
    lines.feed("one\r\ntw")
    assert shown == ["one"]
    lines.feed("o\n\nthree")
    assert shown == ["one", "two", ""]
    lines.end()
    assert shown == ["one", "two", "", "three"]


def test_of_a_progress_bar_a_state_now_and_then_and_the_last() -> None:
    shown: list[str] = []
    clock = Clock()
    lines = Lines(shown.append, clock)
    for percent in range(100):
        clock.now += BAR_INTERVAL / 10
        lines.feed(f"\r{percent}%|###")
    lines.feed("\r100%|####\nnext\n")
    assert shown[-2:] == ["100%|####", "next"]
    assert len(shown) == 2 + 10
    lines.feed("\rbar ended by its carriage return\r")
    lines.end()
    assert shown[-1] == "bar ended by its carriage return"


def test_a_line_without_an_end_takes_no_longer_than_lines() -> None:
    shown: list[str] = []
    lines = Lines(shown.append)
    for _ in range(100):
        lines.feed("x" * 5_000)
    lines.end()
    assert sum(map(len, shown)) == 500_000
    assert max(map(len, shown)) < 100_000


# -- as an artifact ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    mlflow.set_tracking_uri(f"bucket+file://{tmp_path}/bucket/mlruns")
    return mlflow.MlflowClient().create_run("0")


def printed(run: Run, name: str = OUTPUT) -> str:
    path = Path(run.info.artifact_uri.removeprefix("file://"), name)
    return path.read_text()


def of_child(run: Run, code: str, leg: int = 1, show: Callable[[str], object] | None = None) -> str:
    """Return what is kept of what a process prints."""
    kept = Output(run, leg, show)
    with kept.captured():
        process = subprocess.Popen([sys.executable, "-S", "-c", code])
    process.wait()
    kept.end()
    return printed(run)


def test_both_streams_as_they_came_without_colours_and_redrawn_lines(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    code = r"""
import sys
for each in range(3):
    print(f"\x1b[32mepoch {each}\x1b[0m é", flush=True)
    print("warning", file=sys.stderr, flush=True)
for each in range(50):
    print(f"\r{each} %", end="", flush=True)
print("\r100 %\nof Windows\r\nwithout an end, and \x1b]0;a title\x07", end="")
"""
    with os.fdopen(os.dup(1), "w") as out:
        before = os.dup(2)
        os.dup2(out.fileno(), 2)  # one place, as in a terminal
        epochs = "".join(f"epoch {each} é\nwarning\n" for each in range(3))
        end = "100 %\nof Windows\nwithout an end, and \\x1b]0;a title\\x07"
        assert of_child(run, code) == epochs + end
        os.dup2(before, 2)
        os.close(before)
    assert capfd.readouterr().out.startswith("\x1b[32mepoch 0\x1b[0m é\nwarning\n")  # as it is


def test_a_long_line_after_a_progress_bar(run: Run) -> None:
    code = "import sys; sys.stdout.write('one\\r' + 'x' * 300_000 + '\\r' * 300_000 + '\\ntwo\\n')"
    assert of_child(run, code) == "x" * 300_000 + "\ntwo\n"


def test_the_streams_stay_apart_where_they_go(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    assert sorted(of_child(run, code).split()) == ["err", "out"]
    assert capfd.readouterr() == ("out\n", "err\n")


def test_no_file_stays_open_behind_it(run: Run) -> None:
    def open_files() -> set[str]:
        return set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    of_child(run, "print()")
    gc.collect()  # and what another test has left open may be closed meanwhile
    before = open_files()
    of_child(run, "print()")
    with pytest.raises(OSError, match="no program"), Output(run).captured():
        raise OSError("no program")
    stderr = os.dup(2)
    os.dup2(1, 2)  # one place, as on every platform
    of_child(run, "print()")
    with pytest.raises(OSError, match="no program"), Output(run).captured():
        raise OSError("no program")
    os.dup2(stderr, 2)
    os.close(stderr)
    assert open_files() <= before


def test_it_is_read_where_many_files_are_open(run: Run) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1100):
            stack.callback(os.close, os.dup(1))
        assert of_child(run, "print('out')") == "out\n"


def test_a_terminal_stays_one(run: Run) -> None:
    reading, writing = pty.openpty()
    output.termios.tcsetwinsize(writing, (10, 77))
    before = os.dup(1), os.dup(2)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    try:
        code = "import os; print(os.isatty(1), os.isatty(2), *os.get_terminal_size(1))"
        assert of_child(run, code) == "True True 77 10\n"
    finally:
        for descriptor, each in zip((1, 2), before, strict=True):
            os.dup2(each, descriptor)
            os.close(each)
    assert os.read(reading, 100) == b"True True 77 10\r\n"
    os.close(reading)
    os.close(writing)


def test_secrets_in_it_are_masked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    value = secrets.token_hex(12)
    monkeypatch.setenv("MY_SERVICE_TOKEN", value)
    key = "".join(f"{secrets.token_hex(32)}\n" for _ in range(25))
    whole = "-----BEGIN PRIVATE" + f" KEY-----\n{key}-----END PRIVATE" + " KEY-----\n"
    fill = "x" * 99 + "\n"
    for before in (0, output._PIECE // 100, output._PIECE // 100 - 9):  # it lies across two pieces
        code = (
            "import os\nprint(os.environ['MY_SERVICE_TOKEN'], 'https://ada:" + "pw1@host/x')\n"
            f"print({fill!r} * {before}, {whole!r}, {fill!r} * 1000, sep='')"
        )
        text = of_child(run, code)
        assert value not in text
        assert "pw1" not in text
        assert not [line for line in key.split() if line in text]
        assert text.count(fill) == before + 1000


def test_of_much_the_beginning_and_the_end_are_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MOST", 5_000)
    text = of_child(run, "for each in range(10_000): print(f'line {each:06}')")
    assert len(text) <= 5_000
    head, tail = text.split(GAP.decode())
    assert head.startswith("line 000000\nline 000001\n")
    assert tail.endswith("line 009998\nline 009999\n")
    assert {len(line) for line in (head + tail).splitlines()} == {11}
    # And of all legs together.
    text = of_child(run, "for each in range(10_000): print(f'next {each:06}')", leg=2)
    assert text.startswith("line 000000\n")
    assert text.endswith("next 009999\n")
    assert len(text) <= 5_000


def test_the_next_leg_goes_on_with_it(run: Run, tmp_path: Path) -> None:
    assert of_child(run, "print('first')", leg=2) == "first\n"  # the one before printed nothing
    assert of_child(run, "print('second')", leg=3) == "first\n\n[leg 3]\n\nsecond\n"


@pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
def test_what_an_earlier_leg_printed_stays_where_it_cannot_be_read(
    bucket: Bucket, gcs_server: GcsServer
) -> None:
    mlflow.set_tracking_uri(f"{bucket.uri}/mlruns")
    run = mlflow.MlflowClient().create_run("0")
    below = run.info.artifact_uri.removeprefix(f"{bucket.uri}/")
    for leg in (1, 2):
        kept = Output(run, leg)
        with kept.captured():
            subprocess.run(["echo", f"leg {leg}"], check=True)
        kept.end()
        gcs_server.fail(403, times=None, where=lambda asked: asked.key.endswith(f"/{OUTPUT}"))
    gcs_server.heal()
    assert bucket.read(f"{below}/{OUTPUT}").data == b"leg 1\n"
    assert bucket.read(f"{below}/output-2.txt").data == b"leg 2\n"


def test_what_a_notebook_shows(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    code = "import sys; print('out é', flush=True); print('err', file=sys.stderr)"
    of_child(run, code, show=lines.append)
    assert sorted(lines) == ["err", "out é"]
    assert capfd.readouterr() == ("", "")


def test_a_training_goes_on_where_nothing_can_be_shown(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    def show(_: str) -> None:
        raise UnicodeError("no such letter")

    line = "x" * 99 + "\n"
    # More than a pipe holds.
    assert of_child(run, f"print({line!r} * 30_000, end='')", show=show) == line * 30_000
    assert capfd.readouterr().out


def test_nobody_waits_for_what_was_left_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_PATIENCE", 1.0)  # a busy machine reads in that
    code = """
import subprocess, sys
print("over", flush=True)
left = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0)
print(left.pid, flush=True)
"""
    stdin, to_end = os.pipe()
    kept = Output(run)
    with kept.captured():
        process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=stdin)
    os.close(stdin)
    process.wait()
    kept.end()
    assert printed(run).startswith("over\n")
    os.close(to_end)


def test_what_is_kept_of_a_run_that_goes_on_is_followed_to_its_end(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOK", 0.0)
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    client.log_text(run_id, "one\ntw", OUTPUT)
    lines = jobs.kept_output(mlflow.get_tracking_uri(), run_id, follow=True)
    assert next(lines) == "one"
    client.log_text(run_id, "one\ntwo\nthree\n", OUTPUT)
    client.set_terminated(run_id)
    assert list(lines) == ["two", "three"]
    done = kaggleops_here("logs", "-f", run_id, "--bucket", tmp_path / "bucket")
    assert (done.code, done.output) == (0, "one\ntwo\nthree\n")


def test_a_run_that_printed_nothing_has_no_output_to_show(run: Run, tmp_path: Path) -> None:
    done = kaggleops_here("logs", run.info.run_id, "--bucket", tmp_path / "bucket")
    assert done.code == 2
    assert done.error.endswith("Nothing is kept of what it printed.")


# -- of a run -------------------------------------------------------------------------------------

MLPROJECT = """
name: toy
entry_points:
  main:
    parameters:
      way: {type: string}
    command: "python train.py {way}"
"""

COMMAND = """
os.environ["LAUNCHER"] = str(os.getpid())
from kaggleops.cli import main
main(["run", "--bucket", {bucket!r}, "--repository", {repository!r}, "way={way}"])
"""

# Prints, waits until that is in the bucket, prints more, and ends as it is told to. What `print`
# writes without a buffer comes in two pieces, and the first may be sent alone.
TRAIN = """
import os, signal, sys, time
import mlflow
from kaggleops.bucket import open_bucket
way, bucket = sys.argv[1], os.environ["BUCKET"]
os.write(1, b"begun\\n")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    key = f"artifacts/{run.info.experiment_id}/{run.info.run_id}/artifacts/output.txt"
    while bucket:
        try:
            if b"begun" in open_bucket(bucket).read(key).data:
                break
        except Exception:
            time.sleep(0.05)
    os.write(1, b"ending\\n")
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stopped twice":  # it does not end when it is told to
        again = lambda *_: os.kill(int(os.environ["LAUNCHER"]), signal.SIGTERM)
        signal.signal(signal.SIGTERM, again)
    if way.startswith("stopped"):
        os.kill(int(os.environ["LAUNCHER"]), signal.SIGTERM)
        time.sleep(60)
    if way == "failed":
        sys.exit(1)
"""


@pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
@pytest.mark.parametrize("way", ["finished", "failed", "killed", "stopped", "stopped twice"])
def test_however_a_run_ends_its_output_is_there_and_was_meanwhile(
    way: str, bucket: Bucket, gcs_server: GcsServer, tmp_path: Path, state_folder: Path
) -> None:
    repository = Repository(tmp_path / "toy")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    repository.commit("Print")
    environment = {"KAGGLEOPS_FLUSH_SECONDS": "0.1", "BUCKET": bucket.uri}
    if way == "finished":
        environment = {"BUCKET": "", "KAGGLEOPS_FLUSH_SECONDS": "1000"}
    script = COMMAND.format(bucket=bucket.uri, repository=str(repository.folder), way=way)
    ended = Training(script, f"{bucket.uri}/mlruns", state_folder, **environment).end()
    assert (ended.code == 0) == (way == "finished"), ended.errors
    assert "begun\nending\n" in ended.output
    (key,) = [entry.key for entry in bucket.list("artifacts/") if entry.key.endswith(OUTPUT)]
    assert bucket.read(key).data == b"begun\nending\n"
    writes = [
        each for each in gcs_server.requests if each.cls == "A" and str(each.key).endswith(key)
    ]
    assert len(writes) == (1 if way == "finished" else 2)
    (run,) = mlflow.MlflowClient(f"{bucket.uri}/mlruns").search_runs(["0", key.split("/")[1]])
    statuses = {"finished": "FINISHED", "stopped": "KILLED", "stopped twice": "KILLED"}
    assert run.info.status == statuses.get(way, "FAILED")
