"""Fetch 2,000 small files and one of 2 GB from a bucket 30 ms away, and once more unchanged.

Ours: `kaggleops data fetch`, which verifies every file's checksum before it gets its name. The
peers: gcsfs, and `gcloud storage cp` where Google's SDK is installed. Each is a process
of its own, its start included, and writes into an empty folder.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from pathlib import Path

import common
from common import BUCKET, print_caption, print_table, scratch

LATENCY = 0.030
SMALL, SMALL_SIZE = 2000, 10_000
LARGE_SIZE = 2_000_000_000
TRIED = 3  # files, to see which peers work


class _Server(common._Server):
    """With objects that need not travel to it."""

    def fill_numbered(self, prefix: str, count: int, size: int) -> None:
        block = os.urandom(1 << 20)
        data = (block * (size // len(block) + 1))[:size]
        for number in range(count):
            self.put(BUCKET, f"{prefix}/{number:05}.bin", data)


class _Manager(BaseManager):
    """Runs the server where it does not share our interpreter's lock."""


_METHODS = ("begin", "taken", "slow_down", "fill_numbered", "stop")
_Manager.register("server", _Server, exposed=_METHODS)


@dataclass(frozen=True)
class Took:
    """What a command took; its requests are those that arrived."""

    seconds: float
    processor: float
    requests: int
    memory: int

    @property
    def cells(self) -> list[str]:
        """Return it for a table."""
        times = [f"{self.seconds:.1f} s", f"{self.processor:.1f} s"]
        return [*times, f"{self.requests:,}", f"{self.memory >> 20} MB"]


Peer = Callable[[str, Path], list[str]]
"""Returns the command that copies the objects below a prefix into a folder."""

MANIFEST = """\
data:
  source: gs://{bucket}/{prefix}
  destination: data
"""


def main() -> None:
    with scratch() as folder, server() as (url, asked):
        peers = usable(folder, url)
        rows = [[name] for name in ("`kaggleops data fetch`", *peers)]
        for prefix in ("small", "large"):
            project = folder / prefix
            (project / "config/data").mkdir(parents=True)
            manifest = MANIFEST.format(bucket=BUCKET, prefix=prefix)
            (project / "config/data/resources.yaml").write_text(manifest)
            ours = [sys.executable, "-m", "kaggleops", "data"]
            run([*ours, "lock"], project, asked)
            first, second = (run([*ours, "fetch"], project, asked) for _ in range(2))
            check(project / "data", prefix)
            shutil.rmtree(project / "data")
            rows[0] += [*first.cells, f"{second.seconds:.1f} s", f"{second.requests:,}"]
            for row, (name, command) in zip(rows[1:], peers.items(), strict=True):
                target = folder / f"{prefix}-{name.strip('`').split()[0]}"
                target.mkdir()
                copy = command(f"gs://{BUCKET}/{prefix}", target)
                first, second = (run(copy, target, asked, environment(folder, url)) for _ in "12")
                check(target, prefix)
                shutil.rmtree(target)
                row += [*first.cells, f"{second.seconds:.1f} s", f"{second.requests:,}"]
    columns = ["", "time", "processor", "requests", "memory", "again: time", "requests"]
    small = f"{SMALL:,} files of {SMALL_SIZE // 1000} kB"
    print_table(small, columns, [row[:7] for row in rows])
    print_table("One file of 2 GB", columns, [[row[0], *row[7:]] for row in rows])
    print_caption(
        "Every request takes 30 ms longer than the loopback server needs, which runs in a process "
        "of its own on the same cores. Each command is a process of its own, its start included: "
        "processor is the time for which it kept one busy, memory is the most that one process of "
        "it had. gsutil cannot be led to a server without TLS.",
    )


@contextmanager
def server() -> Iterator[tuple[str, Callable[[], int]]]:
    """Run a bucket with everything in it; yield its address, and what counts its requests."""
    with _Manager() as manager:
        made = manager.server(0.0)  # type: ignore[attr-defined]
        url = os.environ["STORAGE_EMULATOR_HOST"] = made.begin()
        try:
            made.fill_numbered("small", SMALL, SMALL_SIZE)
            made.fill_numbered("large", 1, LARGE_SIZE)
            made.fill_numbered("try", TRIED, SMALL_SIZE)
            made.slow_down(LATENCY)
            yield url, lambda: sum(made.taken())
        finally:
            made.stop()
            del os.environ["STORAGE_EMULATOR_HOST"]


def run(
    command: list[str], cwd: Path, asked: Callable[[], int], more: Mapping[str, str] | None = None
) -> Took:
    """Run a command and measure it.

    Raises:
        RuntimeError: it failed.
    """
    asked()
    begun = time.perf_counter()
    with (cwd.parent / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(more or {})}, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:])
    took = Took(seconds, used.ru_utime + used.ru_stime, asked(), used.ru_maxrss << 10)
    print(" ".join(command)[:60], *took.cells, file=sys.stderr, flush=True)
    return took


def check(folder: Path, prefix: str) -> None:
    """Make sure that a command brought everything."""
    files = [path for path in folder.rglob("*.bin") if path.is_file()]
    count, size = (SMALL, SMALL_SIZE) if prefix == "small" else (1, LARGE_SIZE)
    assert [path.stat().st_size for path in files] == [size] * count, (folder, len(files))


# -- peers -------------------------------------------------------------------------------------

_GCSFS = """
import sys, gcsfs
gcsfs.GCSFileSystem(token="anon").get(sys.argv[1] + "/", sys.argv[2], recursive=True)
"""


def environment(folder: Path, url: str) -> dict[str, str]:
    """Return what leads Google's command-line tools to the loopback server, without credentials."""
    return {
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


def usable(folder: Path, url: str) -> dict[str, Peer]:
    """Return the peers that work on this machine."""
    # gsutil is none of them: it speaks https only.
    peers: dict[str, Peer] = {
        "`gcsfs` `get`": lambda uri, to: [sys.executable, "-c", _GCSFS, uri, str(to)],
        "`gcloud storage cp`": lambda uri, to: [
            *("gcloud", "storage", "cp", "--recursive", "--no-clobber"), f"{uri}/*", str(to),
        ],
    }  # fmt: skip
    return {name: peer for name, peer in peers.items() if _works(name, peer, folder, url)}


def _works(name: str, peer: Peer, folder: Path, url: str) -> bool:
    target = folder / "try"
    target.mkdir()
    command = peer(f"gs://{BUCKET}/try", target)
    if shutil.which(command[0]) is None:
        return False
    environ = {**os.environ, **environment(folder, url)}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=600)
    arrived = len(list(target.rglob("*.bin")))
    shutil.rmtree(target)
    if done.returncode or arrived != TRIED:
        print(f"{name} does not run here: {done.stderr.decode()[-300:]}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
