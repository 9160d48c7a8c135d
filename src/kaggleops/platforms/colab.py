"""Colab."""

from collections.abc import Callable, Mapping
from pathlib import Path

from kaggleops.platforms.platform import NotThisWayError, Platform, first_line, module


class Colab(Platform):
    """Colab, where a person signs in; `-b colab` uploads the key's file to each runtime."""

    name = "colab"
    title = "Colab"
    backend = "colab"
    session_hours = 12  # what users report of the free tier in 2026
    _output = "content"
    _sign_in_hint = "Run this cell again and complete the sign-in that Colab asks for."

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return bool(environ.get("COLAB_RELEASE_TAG") or environ.get("COLAB_JUPYTER_IP"))

    def _ways(self) -> tuple[Callable[[], str], ...]:
        return (_authenticate,)


def _authenticate() -> str:
    auth = module("google.colab.auth")
    try:
        auth.authenticate_user()
    except Exception as error:  # noqa: BLE001 - nobody is there, the window was closed, …
        problem = f"Colab's sign-in was not completed ({first_line(error)})"
        raise NotThisWayError(problem) from None
    return "Colab's sign-in"
