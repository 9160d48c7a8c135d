"""A session: what was pushed, truly executed, in a process of its own in a folder like Kaggle's."""

import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.fakes.processes import end_processes_of

ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")

_PLATFORMS_OWN = {"__notebook__.ipynb"}  # lies in kaggle/working, and is no output


@dataclass(frozen=True)
class Job:
    """What a session executes, in `root` / kaggle / working."""

    root: Path
    command: list[str]
    environment: dict[str, str]
    timeout: float
    """Seconds after which it is ended."""


class Session:
    """One version of a notebook, executed once.

    Args:
        id: what cancelling it asks for, and no call of the API tells.
        owner: whose accelerator hours it uses.
        prepare: called when a machine is there; fills it and says what to execute.
        accelerator: "gpu", "tpu" or "".
        held: whether it stays in the queue until `start`.
    """

    def __init__(
        self,
        id: int,
        owner: str,
        prepare: Callable[[], Job],
        accelerator: str,
        *,
        held: bool,
    ) -> None:
        self.id = id
        self.owner = owner
        self.accelerator = accelerator
        self.state = "QUEUED"
        self.failure = ""
        self.log: list[dict[str, object]] = []
        self.broken: list[str] = []
        """Tracebacks of the fake's own mistakes."""
        self._root: Path | None = None
        self._prepare = prepare
        self._changed = threading.Condition()
        self._released = not held
        self._cancelled = False
        self._began = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    # What a test asks of it

    def start(self) -> None:
        """Let it leave the queue."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """End it, as its owner can on the website."""
        with self._changed:
            if self.ended:
                return
            self.state = "CANCEL_REQUESTED"
            self._cancelled = True
            self._changed.notify_all()
        if self._root:
            end_processes_of(self._root)

    def crash(self) -> None:
        """Kill what executes the notebook, as a machine that is out of memory does."""
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None)
            assert self._process is not None
            self._process.kill()

    def wait(self, state: str = "", timeout: float = 240) -> str:
        """Wait until it is in that state, or has ended; return the state.

        Raises:
            TimeoutError: it is in another state after `timeout` seconds.
        """
        with self._changed:
            wanted = (*ENDED, state)
            if not self._changed.wait_for(lambda: self.state in wanted, timeout):
                raise TimeoutError(f"the session is {self.state}; its log:\n{self.text}")
            return self.state

    def wait_for_log(self, text: str, timeout: float = 240) -> None:
        """Wait until its log contains that.

        Raises:
            TimeoutError: it has ended, or so many seconds have passed, and it does not.
        """
        with self._changed:
            self._changed.wait_for(lambda: text in self.text or self.state in ENDED, timeout)
            if text not in self.text:
                raise TimeoutError(f"the session is {self.state}; its log:\n{self.text}")

    @property
    def text(self) -> str:
        """Everything that it has printed."""
        return "".join(str(entry["data"]) for entry in self.log)

    @property
    def root(self) -> Path:
        """The folder of its machine, under which /kaggle lies."""
        assert self._root is not None, "the session has not left the queue"
        return self._root

    @property
    def working(self) -> Path:
        """Its /kaggle/working."""
        return self.root / "kaggle/working"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    # What the server asks of it

    def events(self) -> Iterator[dict[str, object]]:
        """Yield its log entries as they come, from the first one, until it ends."""
        shown = 0
        while new := self._behind(shown):
            yield from new
            shown += len(new)

    def _behind(self, shown: int) -> list[dict[str, object]]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.log) > shown or self.ended)
            return self.log[shown:]

    def outputs(self) -> dict[str, Path]:
        """Return the files that it left, by name; a version that failed keeps none."""
        if self.state != "COMPLETE":
            return {}
        files = sorted(path for path in self.working.rglob("*") if path.is_file())
        named = {path.relative_to(self.working).as_posix(): path for path in files}
        return {name: path for name, path in named.items() if name not in _PLATFORMS_OWN}

    def join(self) -> None:
        """Cancel it, and return when nothing is left of it."""
        self.cancel()
        self._thread.join()

    # Its life

    def _enter(self, state: str, failure: str = "") -> None:
        with self._changed:
            self.state, self.failure = state, failure
            self._changed.notify_all()

    def _live(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._released or self._cancelled)
        if self._cancelled:
            self._enter("CANCEL_ACKNOWLEDGED")
            return
        try:
            code, failure = self._execute(self._prepare())
        except Exception as error:  # noqa: BLE001 - the fake's mistake, not the notebook's
            self.broken.append(traceback.format_exc())
            code, failure = 1, f"the fake broke: {error!r}"
        if self._cancelled:
            self._enter("CANCEL_ACKNOWLEDGED", "Your notebook was cancelled.")
        else:
            self._enter("ERROR" if code else "COMPLETE", failure)

    def _execute(self, job: Job) -> tuple[int, str]:
        with self._changed:
            if self._cancelled:
                return 1, ""
            self._root = job.root
            self._began = time.monotonic()
            process = subprocess.Popen(
                job.command,
                cwd=self.working,
                env=job.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._process = process
            self.state = "RUNNING"
            self._changed.notify_all()
        readers = [
            threading.Thread(target=self._read, args=each)
            for each in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in readers:
            reader.start()
        failure = ""
        try:
            process.wait(job.timeout)
        except subprocess.TimeoutExpired:
            failure = f"Your notebook was stopped: it ran longer than {job.timeout:.0f} seconds."
        end_processes_of(job.root)
        for reader in readers:
            reader.join()
        return process.wait() or bool(failure), failure

    def _read(self, name: str, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                entry = {
                    "stream_name": name,
                    "time": round(time.monotonic() - self._began, 9),
                    "data": line,
                }
                with self._changed:
                    self.log.append(entry)
                    self._changed.notify_all()
