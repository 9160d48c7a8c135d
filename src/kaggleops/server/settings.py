"""What `kaggleops serve` tells its processes, through their environment; and its passwords.

An environment can only be read by its owner; a command line by everybody on the machine, and the
URL of a database may hold a password.

MLflow's basic auth needs a first user and a secret key, made once for a server. MLflow ships no
password: one that is not given is made here, and kept where only its owner can read it. Each file
gets its name when it is complete, and one process makes it: a first start can be killed, and two
can start at once.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.platforms.folders import (
    private_database,
    private_file,
    private_folder,
    state_folder,
    write_private,
)
from kaggleops.redaction import keep_login

PAGE_PATH = "/kaggleops/"
HEALTH_PATH = "/kaggleops/health"

SECONDS_TO_END = 20.0
"""How long a process that serves may take to end before it is killed."""

_VARIABLE = "KAGGLEOPS_SERVE"

_LEAN = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight processes more
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # of each that a browser shows
    # Let the C library return freed memory: after eight pages of 1,000 runs all processes took
    # 306 MB, and 355 without the last two.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


@dataclass(frozen=True)
class Settings:
    """What is served, and how.

    Args:
        bucket: its address.
        index: the URL of the index's database.
        scratch: the folder for this server's temporary files.
        auth: whether to ask for a name and a password.
        socket: the file descriptor to listen on; -1 for none.
        host_names: the server's names in a browser's address, beside loopback.
        again: whether this process takes the place of one that has served and died.
    """

    bucket: str
    index: str
    scratch: str
    auth: bool = False
    socket: int = -1
    host_names: Sequence[str] = ()
    again: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that gets these settings."""
        return {**_LEAN, **os.environ, "TMPDIR": self.scratch, _VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings from the process that started this one."""
        # Removed, so that processes started from here do not see it.
        return cls(**json.loads(os.environ.pop(_VARIABLE)))


def mlflow_environment(store_uri: str, artifact_root: str) -> dict[str, str]:
    """Return what `mlflow server` tells its processes (mlflow/server/__init__.py, 3.17).

    MLflow reads it when it is imported: the store of runs and models, and where the artifacts of a
    new experiment go.
    """
    return {
        "_MLFLOW_SERVER_FILE_STORE": store_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": store_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifact_root,
        "_MLFLOW_STATIC_PREFIX": "",  # whatever another server on this machine sets
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",  # door.py does it
        # What the server says about itself must be true, whatever the environment says.
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ENABLE_WORKSPACES": "false",
    }


def server_folder(bucket_uri: str) -> Path:
    """Return the folder for a bucket's index and the other files of its server."""
    readable = re.sub(r"[^a-zA-Z0-9]+", "-", bucket_uri.partition("://")[2])[-60:].strip("-")
    unique = hashlib.sha256(bucket_uri.encode()).hexdigest()[:8]
    return state_folder() / "serve" / f"{readable}-{unique}"


def default_index(bucket_uri: str) -> str:
    """Return the URL of a bucket's default index, a file in the server's folder."""
    return f"sqlite:///{server_folder(bucket_uri) / 'index.db'}"


def index_at(url: str) -> str:
    """Return the URL of an index as the driver takes it; UsageError for an unsupported database."""
    scheme, separator, rest = keep_login(url).partition("://")
    if separator and scheme == "sqlite":
        return f"{scheme}://{rest}"
    if separator and scheme in ("postgresql", "postgresql+psycopg2"):
        return f"postgresql+psycopg2://{rest}"  # SQLAlchemy's own choice depends on its version
    hint = "Name one as sqlite:////folder/index.db or postgresql://host/name."
    raise UsageError(f"opening the index {url}", "an index is kept in SQLite or PostgreSQL", hint)


_USER = "MLFLOW_AUTH_ADMIN_USERNAME"
_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
_SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 - the name of a variable
_CONFIG = "MLFLOW_AUTH_CONFIG_PATH"


_PASSWORD_FILE = "admin-password"  # noqa: S105 - the name of a file


def ask_for_passwords(folder: Path) -> None:
    """Set MLflow's settings for basic auth that are not set yet, with files in the server's folder.

    MLflow takes a password only as it makes the first user: where that is there, none is made.
    """
    private_folder(folder)
    # For a form that MLflow serves; the same in all processes of this server.
    os.environ.setdefault(_SECRET_KEY, secrets.token_hex(32))
    user = os.environ.setdefault(_USER, "admin")
    if _CONFIG not in os.environ:
        users = f"sqlite:///{folder / 'users.db'}".replace("%", "%%")
        write_private(folder / "basic_auth.ini", _INI.format(users=users))
        os.environ[_CONFIG] = str(folder / "basic_auth.ini")
    if os.environ.get(_PASSWORD):
        return
    file = folder / _PASSWORD_FILE
    with _alone(folder):
        if not file.exists() or not file.read_text().strip():
            if _is_there(user, folder / "users.db"):
                return
            write_private(file, secrets.token_urlsafe(18) + "\n")
    private_file(file)
    os.environ[_PASSWORD] = file.read_text().strip()


def _is_there(user: str, users: Path) -> bool:
    with (
        suppress(sqlite3.Error),  # there is no file, or no table
        closing(sqlite3.connect(f"{users.absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        found = database.execute("SELECT 1 FROM users WHERE username = ?", (user,))
        return found.fetchone() is not None
    return False


def first_user(folder: Path, is_password_of: Callable[[str, str], bool]) -> str:
    """Return who the first user is and where the password is that counts, for people to read.

    Args:
        folder: the server's.
        is_password_of: whether a user, the first argument, has a password, the second.
    """
    user, file = os.environ[_USER], folder / _PASSWORD_FILE
    if file.exists() and is_password_of(user, file.read_text().strip()):
        return f"user {user}, with the password in {file}"
    if is_password_of(user, os.environ.get(_PASSWORD, "")):
        return f"user {user}, with the password in {_PASSWORD}"
    return f"user {user}, with the password that was set before"


def make_users_database(url: str) -> None:
    """Make the file of MLflow's basic auth at once: MLflow makes one table after the other."""
    import sqlalchemy as sa
    from mlflow.server.auth.db.utils import migrate

    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    file = Path(parsed.database)
    with _alone(file.parent):
        if file.exists():
            private_database(file)
            return
        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)  # left by a process that was killed
        new.touch(0o600)
        engine = sa.create_engine(f"sqlite:///{new}")
        migrate(engine, "head")
        engine.dispose()
        new.rename(file)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Run a block in one process at a time."""
    with private_file(folder / "passwords.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# A password costs a tenth of a second to check, more on a small machine, and a page asks thirty
# times. Of one that is changed MLflow forgets what it knows at once.
_INI = """[mlflow]
default_permission = READ
database_uri = {users}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
