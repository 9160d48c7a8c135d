"""The real client of Kaggle, in this process and as the command `kaggle`, led to the fake."""

import os
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from kagglesdk import kaggle_env

from tests.fakes import platforms
from tests.fakes.kaggle.store import User

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi


def environment(url: str, user: User, home: Path, *, token: bool) -> dict[str, str]:
    """Return the environment of a process whose Kaggle client goes to `url`.

    Its only endpoint besides the real one is http://localhost, which a proxy leads there; what
    runs on 127.0.0.1 is reached without one.
    """
    home.mkdir(parents=True, exist_ok=True)
    basic = {"KAGGLE_USERNAME": user.name, "KAGGLE_KEY": user.key}
    return {
        **platforms.plain(home),
        **({"KAGGLE_API_TOKEN": user.token} if token else basic),
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "HTTP_PROXY": url,
        "NO_PROXY": "127.0.0.1",
    }


def authenticated(url: str, environ: dict[str, str]) -> "KaggleApi":
    """Return a client in this process; the last one made says where all of them go."""
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = url
    # Importing signs in too, and keeps for the whole process where it found nothing.
    with patch.dict(os.environ, environ, clear=True):
        from kaggle.api.kaggle_api_extended import KaggleApi

        # For every client in this process: the class decides when it is imported.
        KaggleApi.args = ["--local"]
        api = KaggleApi()
        api.authenticate()
    return api
