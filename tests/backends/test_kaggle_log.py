"""A log whose stream breaks, repeats itself and comes late is shown whole and once."""

import json
from pathlib import Path

import pytest

from kaggleops.backends.job_log import Once
from kaggleops.backends.kaggle.backend import entry, parsed
from kaggleops.backends.lookup import backend_named
from kaggleops.errors import KaggleOpsError
from tests.fakes.kaggle_uses import kernel_folder

from .world import Collected, Gate, World

ENTRIES: list[dict[str, object]] = [
    {"stream_name": "stdout", "time": 0.5, "data": "begin\n"},
    {"stream_name": "stdout", "time": 0.5, "data": "same\n"},
    {"stream_name": "stdout", "time": 0.5, "data": "same\n"},
    {"stream_name": "stderr", "time": 0.5, "data": "same\n"},
    {"stream_name": "stdout", "time": 1.5, "data": "two\nlines\n"},
]
TEXTS = ["begin", "same", "same", "same", "two\nlines"]


def new(log: Once, reading: list[dict[str, object]]) -> list[str]:
    return [text for *_, text in log.new(map(entry, reading))]


def test_a_replay_says_nothing_new() -> None:
    log = Once()
    assert new(log, ENTRIES[:2]) == TEXTS[:2]
    assert new(log, ENTRIES[:3]) == TEXTS[2:3]
    assert new(log, ENTRIES) == TEXTS[3:]
    assert new(log, ENTRIES) == []


def test_what_comes_late_in_the_middle_is_shown() -> None:
    log = Once()
    assert new(log, [ENTRIES[0], ENTRIES[4]]) == ["begin", "two\nlines"]
    assert new(log, ENTRIES) == ["same", "same", "same"]


@pytest.mark.parametrize(
    ("kept", "texts"),
    [
        ("", []),
        (json.dumps(ENTRIES), TEXTS),
        ("plain\ntext", ["plain", "text"]),
        ('["no entry", {"data": "one"}, {"time": 3}]', ["no entry", "one", ""]),
    ],
)
def test_a_kept_log(kept: str, texts: list[str]) -> None:
    assert [text for *_, text in Once().new(parsed(kept))] == texts


SCRIPT = """
import sys
print("same")
print("same")
print("to stderr", file=sys.stderr)
open({gate!r} + ".reached", "w").close()
open({gate!r} + ".open").read()
print("same")
print("last")
"""


def test_a_log_is_followed_from_the_queue_to_its_end(outside: World, tmp_path: Path) -> None:
    kaggle = outside.kaggle
    gate = Gate(tmp_path / "gate")
    folder = kernel_folder(tmp_path / "push", "ada/a-script", SCRIPT.format(gate=str(gate.path)))
    kaggle.api("ada").kernels_push(folder)
    kaggle.behaviour.no_log_in_queue = True
    kaggle.behaviour.drop_streams += [1, 2, 0]
    kaggle.behaviour.late_logs = 1
    backend, tags = backend_named("kaggle"), {"kaggle_notebook": "ada/a-script"}

    assert list(backend.logs(tags, follow=False)) == []
    following = Collected(backend.logs(tags, follow=True))
    kaggle.session("ada/a-script").start()
    gate.wait()
    gate.open()
    kaggle.session("ada/a-script").wait()
    following.join()
    assert sorted(following.lines) == ["last", "same", "same", "same", "to stderr"]
    assert sorted(backend.logs(tags, follow=False)) == sorted(following.lines)


def test_a_log_that_cannot_be_read_is_given_up(outside: World, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    folder = kernel_folder(tmp_path / "push", "ada/waiting", SCRIPT.format(gate=str(gate.path)))
    outside.kaggle.api("ada").kernels_push(folder)
    outside.kaggle.session("ada/waiting").start()
    gate.wait()
    backend, tags = backend_named("kaggle"), {"kaggle_notebook": "ada/waiting"}
    outside.kaggle.behaviour.drop_streams += [0] * 5
    with pytest.raises(KaggleOpsError, match="no answer from Kaggle"):
        list(backend.logs(tags, follow=True))
    outside.kaggle.session("ada/waiting").cancel()
