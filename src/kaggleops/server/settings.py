"""What `kaggleops serve` tells the processes that it starts: through their environment.

An environment can be read by its owner only; a command line by everybody on the machine, and the
address of a database may hold a password.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.platforms.folders import state_folder
from kaggleops.redaction import keep_login

_VARIABLE = "KAGGLEOPS_SERVE"

_LEAN = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight processes more
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # So that the C library gives back what it is given back: after eight pages of 1,000 runs all
    # processes took 306 MB, and without the last two 355.
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
        scratch: a folder for what is on its way, of this server alone.
        auth: whether everybody has to say who they are.
        socket: the file descriptor on which to listen; -1 for who does not.
        host_names: what the server is called in a browser's address, beside loopback.
    """

    bucket: str
    index: str
    scratch: str
    auth: bool = False
    socket: int = -1
    host_names: Sequence[str] = ()

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that is to know this."""
        return {**_LEAN, **os.environ, "TMPDIR": self.scratch, _VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return what the process that started this one has said."""
        # Taken out: a process that this one starts has no business with it.
        return cls(**json.loads(os.environ.pop(_VARIABLE)))


def mlflow_environment(store_uri: str, artifact_root: str) -> dict[str, str]:
    """Return what `mlflow server` tells its processes (mlflow/server/__init__.py, 3.17).

    MLflow reads it when it is imported.

    Args:
        store_uri: of the runs and of the registry.
        artifact_root: where the artifacts of a new experiment go.
    """
    return {
        "_MLFLOW_SERVER_FILE_STORE": store_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": store_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifact_root,
        "_MLFLOW_STATIC_PREFIX": "",  # whatever another server of this machine has
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",  # there is a door
        # What the server says of itself is true, whatever this machine's environment says.
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ENABLE_WORKSPACES": "false",
    }


def server_folder(bucket_uri: str) -> Path:
    """Return the folder for the index of a bucket and what else its server keeps."""
    readable = re.sub(r"[^a-zA-Z0-9]+", "-", bucket_uri.partition("://")[2])[-60:].strip("-")
    unique = hashlib.sha256(bucket_uri.encode()).hexdigest()[:8]
    return state_folder() / "serve" / f"{readable}-{unique}"


def default_index(bucket_uri: str) -> str:
    """Return the URL of a bucket's index where none is named: a file in the server's folder."""
    return f"sqlite:///{server_folder(bucket_uri) / 'index.db'}"


def index_at(url: str) -> str:
    """Return the URL of an index as the database's driver wants it.

    Raises:
        UsageError: no index is served from there.
    """
    scheme, separator, rest = keep_login(url).partition("://")
    if separator and scheme in _SCHEMES:
        # SQLAlchemy's own choice of a driver depends on its version.
        return f"{_SCHEMES[scheme]}://{rest}"
    raise UsageError(
        f"opening the index {url}",
        "an index is served from SQLite or PostgreSQL",
        "Name one as sqlite:////folder/index.db or postgresql://host/name.",
    )


_SCHEMES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
}
