"""`kaggleops serve` as a process of its own, and a training that logs beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests

from tests.warm import children

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], seconds: float = 90) -> Found:
    """Return what `look` returns once that is true; what it raises meanwhile does not count."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
            problem: object = f"it is {found!r}"
        except (requests.RequestException, AssertionError, LookupError) as error:
            problem = error
        assert time.monotonic() < deadline, problem
        time.sleep(0.05)


class Serving:
    """A server that answers.

    Args:
        process: the command.
        errors: where its standard error goes.
        found: what it said of itself.
    """

    def __init__(
        self, process: "subprocess.Popen[str]", errors: Path, found: dict[str, Any]
    ) -> None:
        self.process = process
        self.found = found
        self.url = str(found["health"]).partition("/kaggleops/")[0]
        self._errors = errors
        self.session = requests.Session()

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return self._errors.read_text()

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return children(self.process.pid)

    def health(self) -> dict[str, Any]:
        """Return the content of its health page."""
        content: dict[str, Any] = self.session.get(self.found["health"], timeout=60).json()
        return content

    def runs(self, experiment_id: str, **search: Any) -> list[dict[str, Any]]:
        """Search for runs as the UI does."""
        answer = self.session.post(
            f"{self.url}/ajax-api/2.0/mlflow/runs/search",
            json={"experiment_ids": [experiment_id], **search},
            timeout=60,
        )
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json().get("runs", [])
        return found


@contextmanager
def serving(
    *options: str, home: Path, end: signal.Signals = signal.SIGTERM, **environment: str
) -> Iterator[Serving]:
    """Serve in a block; after it the server has ended, with everything that it started.

    Args:
        options: of the command.
        home: its state folder.
        end: how it is ended.
    """
    home.mkdir(parents=True, exist_ok=True)
    errors = home / f"errors-{time.monotonic_ns()}"
    errors.touch(0o600)  # so that only what the server keeps can be open to others
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kaggleops", "serve", "--json", "--port", "0", *options],
            env={**os.environ, "KAGGLEOPS_HOME": str(home), **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    started: list[psutil.Process] = []
    try:
        server = Serving(process, errors, _said(process, errors))
        yield server
        started = server.children
        assert started
        process.send_signal(end)
        code = process.wait(60)
        assert not psutil.wait_procs(started, timeout=60)[1], "it has left a process behind"
        assert code == (0 if end is signal.SIGTERM else -end), server.errors
        assert "Traceback" not in server.errors, server.errors
    finally:
        process.kill()
        process.wait()
        for each in started:
            if each.is_running():
                each.kill()


def _said(process: "subprocess.Popen[str]", errors: Path) -> dict[str, Any]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            found: dict[str, Any] = json.loads("".join(lines))
            return found
    raise AssertionError(errors.read_text())
