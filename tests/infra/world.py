"""A machine of Google's in a folder: its metadata, its bucket, its systemd; and releases for it."""

import base64
import ensurepip
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from kaggleops.bucket import open_bucket
from tests.fakes import systemd
from tests.fakes.gcs_server import GcsServer
from tests.fakes.wire import Delivery, HttpServer, Request, Response, free_port
from tests.packages import write_wheel

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "infra/server"
BUCKET = "our-bucket"
PUBLISH = runpy.run_path(str(SERVER / "publish.py"))
# The machine's own, where this one has it: there, pip is no part of it.
PYTHON = "/usr/bin/python3.11" if Path("/usr/bin/python3.11").exists() else sys.executable
PIP = Path(ensurepip.__file__).parent / "_bundled"

STAND_IN = """
import hashlib, http.server, json, os, pathlib, sys, time
if "--version" in sys.argv: sys.exit()
hangs = pathlib.Path(os.environ["KAGGLEOPS_HOME"], "hangs")
if hangs.exists():
    hangs.write_text("yes")
    time.sleep(600)
key = hashlib.sha256(os.environ.get("AWS_SECRET_ACCESS_KEY", "").encode()).hexdigest()
said = {"status": "fresh", "version": %r, "arguments": sys.argv[1:], "key": key}
if "watch" in sys.argv:
    said["platform"] = os.environ.get("RUNPOD_API_KEY")
    file = pathlib.Path(os.environ["KAGGLEOPS_HOME"], "watching")
    file.with_suffix(".new").write_text(json.dumps(said))
    file.with_suffix(".new").replace(file)
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""A server that starts at once and says which release it is and what key it has, or hangs if a file
says so, and a watcher that does nothing: what is tested is their installation."""


@dataclass
class Google:
    """The metadata server, and Secret Manager's one method; strict about headers and tokens."""

    attributes: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def answer(self, request: Request) -> tuple[Response, Delivery]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        instance = "/computeMetadata/v1/instance/"
        secret = request.path.removeprefix("/v1/").removesuffix("/versions/latest:access")
        if request.path.startswith(instance) and headers.get("metadata-flavor") != "Google":
            found, status = b"Missing Metadata-Flavor:Google header.", 403
        elif request.path == f"{instance}service-accounts/default/token":
            found, status = b'{"access_token": "t0ken", "token_type": "Bearer"}', 200
        elif request.path.startswith(f"{instance}attributes/"):
            name = request.path.rpartition("/")[2]
            found = self.attributes.get(name, "").encode()
            status = 200 if name in self.attributes else 404
        elif secret in self.secrets and headers.get("authorization") == "Bearer t0ken":
            data = base64.b64encode(self.secrets[secret].encode())
            found, status = b'{"payload": {"data": "%s"}}' % data, 200
        else:
            found, status = b"no", 404
        return Response(status, [], found), "whole"


@dataclass
class World:
    """The machine, from outside.

    Args:
        root: its `/`.
        gcs: its bucket's service.
        google: what its metadata say.
        port: where the server answers instead of port 5000.
        environment: of its processes.
    """

    root: Path
    gcs: GcsServer
    google: Google
    port: int
    environment: dict[str, str]

    @property
    def settings(self) -> Path:
        """Where the unit reads what it serves."""
        return self.root / "etc/kaggleops/server.env"

    def command(
        self, *arguments: str, patience: float = 580, typed: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run `kaggleops-server` as the machine has it, or as its start-up script."""
        return subprocess.run(
            self._line(*arguments),
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=patience,
        )

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same, without waiting."""
        return subprocess.Popen(
            self._line(*arguments), env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def _line(self, *arguments: str) -> list[str]:
        installed = self.root / "usr/local/sbin/kaggleops-server"
        script = installed if installed.exists() else SERVER / "kaggleops_server.py"
        return [PYTHON, str(script), "--root", str(self.root), *arguments]

    def publish(self, release: str, code: str | None = None) -> None:
        """Put a release into the bucket, pinned; its server runs `code`."""
        PUBLISH["send"](self.pack(release, code), release, open_bucket(f"gs://{BUCKET}"))

    def pack(self, release: str, code: str | None = None) -> Path:
        """Write a release into a file; its server runs `code`."""
        folder = self.root.parent / f"publishing-{release}"
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        program = f"def main():\n    exec({code or STAND_IN % release!r}, globals())\n"
        write_wheel(
            wheels,
            "kaggleops",
            release,
            files={"stand_in.py": program},
            commands={"kaggleops": "stand_in:main"},
        )
        shutil.copy(next(PIP.glob("pip-*.whl")), wheels)
        archive = folder / "release.zip"
        PUBLISH["pack"](SERVER, wheels, archive)
        return archive

    def said(self) -> dict[str, object]:
        """Return what the server that runs says of itself."""
        found: dict[str, object] = requests.get(
            self.environment["KAGGLEOPS_HEALTH"], timeout=30
        ).json()
        return found

    def watching(self) -> dict[str, object]:
        """Return what the watcher that runs says of itself; {} before it does."""
        file = self.root / "var/lib/kaggleops/watching"
        found: dict[str, object] = json.loads(file.read_text()) if file.exists() else {}
        return found


@contextmanager
def machine(folder: Path, gcs: GcsServer) -> Iterator[World]:
    """A new machine in a block; after it nothing runs there."""
    google = Google({"kaggleops-bucket": f"gs://{BUCKET}", "kaggleops-options": "--some-option"})
    http = HttpServer(google.answer)
    root = folder / "root"
    root.mkdir()
    port = free_port()
    systemctl = systemd.install(folder / "bin", root, port)
    environment = {
        **os.environ,
        "PATH": f"{systemctl.parent}:{os.environ['PATH']}",
        "GCE_METADATA_HOST": http.url.removeprefix("http://"),
        "SECRET_MANAGER_HOST": http.url,
        "STORAGE_EMULATOR_HOST": gcs.url,
        "KAGGLEOPS_HEALTH": f"http://127.0.0.1:{port}/kaggleops/health.json",
        "PIP_NO_COMPILE": "0",  # which means none: each release brings pip
    }
    try:
        yield World(root, gcs, google, port, environment)
    finally:
        for name in ("kaggleops.service", "kaggleops-watch.service"):
            if (root / "etc/systemd/system" / name).exists():
                systemd.Unit(root, name, port).stop()
        http.stop()
