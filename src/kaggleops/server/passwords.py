"""What MLflow's own basic auth needs, made once for a server: the first user and a secret key.

MLflow ships no password. One that is not given is made here, and kept where only its owner reads.
Each file gets its name when it is whole, and one process makes it: a first start can be killed, and
two can start at once.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaggleops.platforms.folders import private_database, private_file, private_folder

_USER = "MLFLOW_AUTH_ADMIN_USERNAME"
_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
_SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 - the name of a variable
_CONFIG = "MLFLOW_AUTH_CONFIG_PATH"


def ask_for_passwords(folder: Path) -> str:
    """Set MLflow's settings for basic auth, where they are not set yet.

    Args:
        folder: the server's own.

    Returns:
        Where the password of the first user comes from, for people to read.
    """
    private_folder(folder)
    # For a form that MLflow serves; the same in all processes of this server.
    os.environ.setdefault(_SECRET_KEY, secrets.token_hex(32))
    user = os.environ.setdefault(_USER, "admin")
    if _CONFIG not in os.environ:
        config = folder / "basic_auth.ini"
        users = f"sqlite:///{folder / 'users.db'}".replace("%", "%%")
        with _alone(folder):
            _write(config, _INI.format(users=users))
        os.environ[_CONFIG] = str(config)
    if os.environ.get(_PASSWORD):
        return f"user {user}, with the password in {_PASSWORD}"
    file = folder / "admin-password"
    with _alone(folder):
        if not file.exists() or not file.read_text().strip():
            _write(file, secrets.token_urlsafe(18) + "\n")
    private_file(file)
    os.environ[_PASSWORD] = file.read_text().strip()
    return f"user {user}, with the password in {file}"


def make_users_database(url: str) -> None:
    """Make the database of MLflow's basic auth, if it is a file that is not there.

    MLflow would make it one table after the other.
    """
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
        new.unlink(missing_ok=True)  # of one that was killed
        new.touch(0o600)
        engine = sa.create_engine(f"sqlite:///{new}")
        migrate(engine, "head")
        engine.dispose()
        new.rename(file)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Run a block that one process at a time runs."""
    with private_file(folder / "passwords.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as whole:
        whole.write(text)
    new.rename(file)


_INI = """[mlflow]
default_permission = READ
database_uri = {users}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
