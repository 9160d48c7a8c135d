"""What a training prints, kept as the artifact `output.txt` of its run, which grows meanwhile.

It is shown at once and as it is, and a terminal stays one for the training. The artifact has both
streams in one, in the order in which they came, exactly so where both lead to one place; without
colours, of a progress bar the last state, secrets masked (redaction.py), behind 8 MiB its beginning
and its end. It is sent when it has changed, five times as seldom as metrics are, and at the end of
every leg. Nothing of this stops the training: what cannot be sent is sent later, as any artifact.

Only a SIGKILL of this very process costs what was printed since it was last sent. As behind
`| tee`, the training then meets a closed pipe when it prints next, and has FAILED if that ends it.
"""

import codecs
import fcntl
import logging
import os
import pty
import re
import select
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from kaggleops.layout import OUTPUT
from kaggleops.printable import log_line
from kaggleops.redaction import HIDDEN, keep, names_a_secret, redacted
from kaggleops.tracking import signals
from kaggleops.tracking.live import output_interval

_log = logging.getLogger("kaggleops")

MOST = 8 << 20
"""Bytes that are kept of it: half of them from its beginning."""

BAR_INTERVAL = 10.0
"""Seconds between two states of a progress bar that are shown as lines."""

GAP = b"\n[... what was printed here is left out ...]\n\n"

_PATIENCE = 5.0  # seconds to wait for what a process that the training left behind may print
_LONGEST_LINE = 1 << 16
_LAST = 1 << 16  # bytes in which an error is looked for
_PIECE = 1 << 13  # characters that are masked at a time: this process can do nothing else meanwhile
_PIPE = 1 << 20  # bytes that wait while it does
_LONGEST_KEY = 1 << 14
# From where a state begins only: from everywhere it takes the square of a long line's length.
_REDRAWN = re.compile(rb"(?<![^\r\n])(?!(?<=\r)\r)[^\r\n]*+\r++(?=[^\r\n])")
_REST_OF_KEY = re.compile(rb"\A(?:(?!-----BEGIN ).){0,8192}?PRIVATE KEY-----", re.DOTALL)


class Lines:
    """Cuts text into lines, and thins out those that are redrawn.

    Args:
        show: called with each line to show, without its end.
        clock: the time in seconds.
    """

    def __init__(
        self, show: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show = show
        self._clock = clock
        self._line = ""
        self._shown = clock()

    def feed(self, text: str) -> None:
        """Take in what was printed next."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._show(_last_state(line))
        drawn, redrawn, rest = self._line.rpartition("\r")
        if redrawn and (state := _last_state(drawn)):
            if self._clock() - self._shown >= BAR_INTERVAL:
                self._shown = self._clock()
                self._show(state)
                state = ""
            self._line = f"{state}\r{rest}"
        if len(self._line) > _LONGEST_LINE:  # to add to it takes as long as it is
            self.end()

    def end(self) -> None:
        """Show what is left, as nothing follows."""
        if left := _last_state(self._line):
            self._show(left)
        self._line = ""


def _last_state(line: str) -> str:
    # A bar's last state may stand before its carriage return; "\r\n" ends a line as "\n" does.
    return line.rstrip().rpartition("\r")[2]


def kept(run: Run, tracking_uri: str) -> list[str] | None:
    """Return the lines that are kept of what a run printed; None if nothing is."""
    with suppress(MlflowException):
        found = _fetched(run.info.artifact_uri, tracking_uri)
        return found.decode(errors="replace").removesuffix("\n").split("\n")
    return None


def _fetched(address: str, tracking_uri: str | None = None) -> bytes:
    with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
        file = Path(folder, OUTPUT)
        # One request; `download_artifacts` lists before, and shows a progress bar.
        get_artifact_repository(address, tracking_uri)._download_file(OUTPUT, str(file))
        return file.read_bytes()


class Output:
    """What one leg of a run prints.

    Args:
        run: the run.
        leg: which leg it is, from 1: a later one goes on with what is there.
        show: called with each line, rather than that it is shown where this process's output is.
    """

    def __init__(self, run: Run, leg: int = 1, show: Callable[[str], object] | None = None) -> None:
        self._address: str = run.info.artifact_uri
        self._leg = leg
        self._name = OUTPUT
        self._shown = Lines(show) if show else None
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._cut = False
        self._count = 0  # bytes printed
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        for name, value in os.environ.items():
            if names_a_secret(name) and not Path(value).is_absolute():
                keep(value)

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Let what is started meanwhile print into it."""
        sys.stdout.flush()
        sys.stderr.flush()
        before = os.dup(1), os.dup(2)
        alike = os.path.sameopenfile(1, 2)
        streams: dict[int, int] = {}
        writing = []
        started = False
        try:
            for descriptor, there in zip((1, 2), before, strict=True):
                if not (streams and alike):
                    reading, end = _channel(descriptor)
                    streams[reading] = there
                    writing.append(end)
                os.dup2(writing[-1], descriptor)
            for each in writing:
                os.close(each)
            yield
            started = True
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, each in zip((1, 2), before, strict=True):
                os.dup2(each, descriptor)
            for each in {*before} - {*streams.values()} if started else {*before, *streams}:
                os.close(each)
        # Not before: what it shows goes to these descriptors.
        for work in (lambda: self._read(streams), self._send_now_and_then):
            thread = threading.Thread(target=work, name="kaggleops-output", daemon=True)
            thread.start()
            self._threads.append(thread)

    def last_lines(self) -> list[str]:
        """Return what was printed last, as the training has ended."""
        with signals.undisturbed():
            for reading in self._threads[:1]:
                reading.join(_PATIENCE)
        with self._lock:
            kept = bytes(self._kept[-_LAST:])
        return log_line(kept.decode(errors="replace")).split("\n")

    def end(self) -> None:
        """Send the rest, as the training has ended."""
        if not self._threads:
            return  # it was never started
        with signals.undisturbed():
            reading, sending = self._threads
            reading.join(_PATIENCE)
            self._over.set()
            sending.join()

    def _read(self, streams: dict[int, int]) -> None:
        """Read what comes, show it and keep it; `streams` are descriptors, from where to where."""
        decoders = {each: codecs.getincrementaldecoder("utf-8")("replace") for each in streams}
        ready = select.poll()  # not `select`: a process with many files open has numbers above 1023
        for each in streams:
            ready.register(each, select.POLLIN)
        while decoders:
            for each, _ in ready.poll():
                data = b""
                with suppress(OSError):  # a terminal whose other end is closed
                    data = os.read(each, 1 << 16)
                if self._shown is None:
                    _write(streams[each], data)
                else:
                    try:
                        self._shown.feed(decoders[each].decode(data, final=not data))
                    except Exception as error:  # noqa: BLE001 - unread, the training would wait
                        _log.warning("What the training prints cannot be shown: %s", error)
                        self._shown = None
                self._keep(data)
                if not data:
                    ready.unregister(each)
                    os.close(each)
                    del decoders[each]
        if self._shown is not None:
            self._shown.end()
        for each in set(streams.values()):
            os.close(each)

    def _keep(self, data: bytes) -> None:
        # Nothing for each line: the training must not wait. What is sent is made fit to be read.
        with self._lock:
            begin = len(self._kept)
            self._count += len(data)
            self._kept += data
            if b"\r" in data:
                begin = max(self._kept.rfind(b"\n", 0, begin) + 1, begin - _LONGEST_LINE)
                self._kept[begin:] = _REDRAWN.sub(b"", self._kept[begin:])
            if len(self._kept) > 2 * MOST:
                del self._kept[MOST // 2 : -MOST // 2]
                self._cut = True

    def _send_now_and_then(self) -> None:
        began = time.monotonic()
        earlier = self._earlier()
        sent = 0
        over = False
        while not over:
            over = self._over.wait(output_interval(time.monotonic() - began))
            with self._lock:
                count, content, cut = self._count, bytes(self._kept), self._cut
            if count == sent:
                continue
            try:
                text = _bounded(content, cut=cut).decode(errors="replace")
                text = _masked("\n".join(log_line(line.rstrip("\r")) for line in text.split("\n")))
                with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
                    file = Path(folder, self._name)
                    file.write_bytes(_bounded(earlier + text.encode(errors="replace")))
                    get_artifact_repository(self._address).log_artifact(str(file))
                sent = count
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                _log.warning("What the training prints cannot be kept now: %s", error)

    def _earlier(self) -> bytes:
        """Return what the legs before have printed."""
        if self._leg == 1:
            return b""
        try:
            printed = _fetched(self._address).rstrip(b"\n")
        except Exception as error:  # noqa: BLE001
            absent = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
            if not (isinstance(error, MlflowException) and error.error_code == absent):
                self._name = f"output-{self._leg}.txt"  # whatever is there, it stays
            return b""
        return printed + f"\n\n[leg {self._leg}]\n\n".encode()


def _channel(descriptor: int) -> tuple[int, int]:
    """Return where to read what is written to the other one: a terminal in place of a terminal."""
    if not os.isatty(descriptor):
        pipe = os.pipe()
        with suppress(OSError, AttributeError):  # Linux has that, up to a limit for each user
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE)
        return pipe
    reading, writing = pty.openpty()
    with suppress(termios.error):
        termios.tcsetwinsize(writing, termios.tcgetwinsize(descriptor))
        mode = termios.tcgetattr(writing)
        mode[1] &= ~termios.OPOST  # the real one does that
        termios.tcsetattr(writing, termios.TCSANOW, mode)
    return reading, writing


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it; nothing where nobody reads it any more."""
    with suppress(OSError):
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                ready = select.poll()
                ready.register(descriptor, select.POLLOUT)
                ready.poll()


def _bounded(content: bytes, *, cut: bool = False) -> bytes:
    """Return what is kept of it; `cut`: something of its middle is left out already."""
    if not cut and len(content) <= MOST:
        return content
    half = (MOST - len(GAP)) // 2
    head, tail = content[:half], content[-half:]
    head, tail = head[: head.rfind(b"\n") + 1], tail[tail.find(b"\n") + 1 :]
    return head + GAP + _REST_OF_KEY.sub(HIDDEN.encode(), tail)


def _masked(text: str) -> str:
    """Return a text without its secrets, a piece of some lines at a time."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        key = text.rfind("-----BEGIN ", start, end)
        if key >= 0 and "-----END " not in text[key:end]:
            whole = text.find("-----END ", end, end + _LONGEST_KEY)
            end = max(end, text.find("\n", whole) + 1 or len(text)) if whole >= 0 else end
        pieces.append(redacted(text[start:end]))
        start = end
    return "".join(pieces)
