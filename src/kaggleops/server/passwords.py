"""What MLflow's own basic auth needs, made once for a server: the first user and a secret key.

MLflow ships no password. One that is not given is made here, and kept where only its owner reads.
"""

import os
import secrets
from pathlib import Path

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
    folder.mkdir(parents=True, exist_ok=True)
    # For a form that MLflow serves; the same in all processes of this server.
    os.environ.setdefault(_SECRET_KEY, secrets.token_hex(32))
    user = os.environ.setdefault(_USER, "admin")
    if _CONFIG not in os.environ:
        config = folder / "basic_auth.ini"
        users = f"sqlite:///{folder / 'users.db'}".replace("%", "%%")
        config.write_text(_INI.format(users=users))
        os.environ[_CONFIG] = str(config)
    if os.environ.get(_PASSWORD):
        return f"user {user}, with the password in {_PASSWORD}"
    file = folder / "admin-password"
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_urlsafe(18) + "\n")
    os.environ[_PASSWORD] = file.read_text().strip()
    return f"user {user}, with the password in {file}"


_INI = """[mlflow]
default_permission = READ
database_uri = {users}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
