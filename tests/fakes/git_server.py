"""Real git on a loopback port: `git daemon` over a folder of repositories."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def git_daemon(folder: Path) -> Iterator[str]:
    """Serve every repository in the folder; yields the address that their names go behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        # Hosts allow it: fetching a commit that no branch points to.
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")

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
