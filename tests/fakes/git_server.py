"""Real git on a loopback port: `git daemon`, or git over HTTP, over a folder of repositories."""

import base64
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.fakes.wire import free_port


@contextmanager
def git_daemon(folder: Path) -> Iterator[str]:
    """Serve every repository in the folder; yields the address that their names go behind."""
    port = free_port()
    process = subprocess.Popen(
        [
            *("git", "daemon", "--export-all", "--reuseaddr", "--verbose", "--informative-errors"),
            *("--listen=127.0.0.1", f"--port={port}", f"--base-path={folder}", str(folder)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert "Ready to rumble" in ready, ready
        yield f"git://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


class GitHttp:
    """`git http-backend` for one user; it notes which processes it sees while it is asked.

    Args:
        folder: of the repositories.
        user: who may read them; "" for everybody.
        password: theirs.
    """

    def __init__(self, folder: Path, user: str = "", password: str = "") -> None:
        self.command_lines: set[str] = set()
        self.asked = 0
        wanted = base64.b64encode(f"{user}:{password}".encode()).decode()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.command_lines |= set(_command_lines())
                if user and self.headers["Authorization"] != f"Basic {wanted}":
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="git"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                path, _, query = self.path.partition("?")
                environment = {
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(folder),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers["Content-Type"] or "",
                    "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
                    "REMOTE_USER": user,
                }
                done = subprocess.run(
                    ["git", "-c", "safe.directory=*", "http-backend"],
                    input=body,
                    env=environment,
                    capture_output=True,
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                told = dict(line.split(": ", 1) for line in head.decode().splitlines())
                self.send_response(int(told.pop("Status", "200").split()[0]))
                for name, value in told.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "GitHttp":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _command_lines() -> Iterator[str]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_text(errors="replace").replace("\0", " ")


# Hosts allow fetching a commit that no branch points to.
_CONFIG = """\
[user]
\tname = Ada
\temail = ada@example.org
[uploadpack]
\tallowAnySHA1InWant = true
"""


class Repository:
    """A git repository of a test's own, with the identity and the branch that tests expect."""

    @classmethod
    def at(cls, folder: Path) -> "Repository":
        """Return the repository that a folder is already."""
        there = cls.__new__(cls)
        there.folder = folder
        return there

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        with (folder / ".git/config").open("a") as config:  # as three processes would
            config.write(_CONFIG)

    def git(self, *arguments: str) -> str:
        """Run git there and return what it wrote."""
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def write(self, **files: str) -> None:
        """Write files; `__` in a name stands for "/", a trailing `_py` for ".py"."""
        for name, content in files.items():
            path = self.folder / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def commit(self, message: str) -> str:
        """Commit everything and return the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")
