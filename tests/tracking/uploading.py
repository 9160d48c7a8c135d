"""Trainings that upload artifacts, and buckets that do not take them."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.command import kaggleops_here
from tests.fakes.object_server import ObjectServer, Request

PREAMBLE = """
from pathlib import Path
from kaggleops.tracking import artifact_uploads as uploads
uploads.PATIENCE = session.PATIENCE = float(os.environ.get("PATIENCE", "0.2"))
uploads.FIRST_PAUSE = 0.05
mlflow.set_experiment("e")

def file(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name

def hear():
    return sys.stdin.readline().strip()
"""


LARGE = bytes(range(256)) * 80 * 1024  # 20 MiB: in chunks


def retrying(script: str) -> str:
    """Return a training that soon gives up, and soon tries again."""
    return PREAMBLE + textwrap.dedent(script)


def waiting(script: str) -> str:
    """Return a training that soon gives up, and does not try again before its end."""
    return PREAMBLE + "uploads.FIRST_PAUSE = 1000\n" + textwrap.dedent(script)


def is_upload(request: Request) -> bool:
    """Tell whether a request uploads (a part of) an artifact."""
    is_write = request.method in ("POST", "PUT")
    return is_write and (request.key or "").startswith("artifacts/")


def artifacts(server: ObjectServer) -> dict[str, bytes]:
    """Return the artifacts in the bucket, by their path in their run or model."""
    return {
        key.partition("/artifacts/")[2]: found.data
        for key, found in server.objects("our-bucket").items()
        if key.startswith("artifacts/")
    }


def uri(server: ObjectServer) -> str:
    """Return the tracking URI of our bucket."""
    return f"{server.address('our-bucket')}/mlruns"


def push(server: ObjectServer, state_folder: Path) -> list[str]:
    """Run `kaggleops push`; return where it has sent artifacts."""
    done = kaggleops_here("push", "--bucket", uri(server), "--json", cwd=state_folder)
    assert done.code == 0, done.errors
    sent: list[str] = done.json["artifacts"]
    return sent


def left(state_folder: Path) -> list[Path]:
    """Return what is kept of artifacts on this machine."""
    # Not rglob, which minds that a folder is removed meanwhile.
    return [
        Path(folder, name)
        for folder, _, names in os.walk(state_folder / "outbox")
        for name in names
        if name in ("content", "manifest.json")
    ]


def away_503(server: ObjectServer) -> Callable[[], object]:
    server.fail(503, times=None, where=is_upload)
    return server.heal


def away_altogether(server: ObjectServer) -> Callable[[], object]:
    server.fail(503, times=None)
    return server.heal


def away_429(server: ObjectServer) -> Callable[[], object]:
    server.fail(429, times=None, where=is_upload, retry_after=1)
    return server.heal


def away_reset(server: ObjectServer) -> Callable[[], object]:
    server.fail("reset", times=None, where=is_upload)
    return server.heal


def away_reset_inside(server: ObjectServer) -> Callable[[], object]:
    def second_chunk(request: Request) -> bool:
        placed = request.headers.get("Content-Range", " 0-")
        return is_upload(request) and (
            " 0-" not in placed or request.query.get("partNumber", "1") != "1"
        )

    server.fail("reset", times=None, where=second_chunk)
    return server.heal


def away_login(server: ObjectServer) -> Callable[[], object]:
    server.deny("our-bucket", write=True, status=401)
    return lambda: server.allow("our-bucket")


def away_bucket(server: ObjectServer) -> Callable[[], object]:
    server.delete_bucket("our-bucket")
    return lambda: server.create_bucket("our-bucket")
