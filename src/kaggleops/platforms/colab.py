"""Colab."""

from collections.abc import Mapping
from pathlib import Path

from kaggleops.errors import first_line
from kaggleops.platforms.google import GoogleKeys
from kaggleops.platforms.keys import Keys, NotThisWayError
from kaggleops.platforms.platform import SECRET, Platform, Way, module


class Colab(Platform):
    """Colab, where a person signs in; `-b colab` uploads the key's file to each runtime."""

    name = "colab"
    title = "Colab"
    backend = "colab"
    session_hours = 12  # what users report of the free tier in 2026
    _output = "content"

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return bool(environ.get("COLAB_RELEASE_TAG") or environ.get("COLAB_JUPYTER_IP"))

    def _ways(self, keys: Keys) -> tuple[Way, ...]:
        return (_authenticate if isinstance(keys, GoogleKeys) else self._secret,)

    def _hint(self, keys: Keys) -> str:
        if isinstance(keys, GoogleKeys):
            return "Run this cell again and complete the sign-in that Colab asks for."
        return (
            f"Add one to Colab's secrets (the key in the left bar), called {SECRET}, with notebook "
            "access: the text of the file that `kaggleops credentials create colab` makes."
        )

    def _secret(self, keys: Keys) -> str:
        userdata = module("google.colab.userdata")
        try:
            secret = str(userdata.get(SECRET))
        except Exception as error:  # noqa: BLE001 - no such secret, no access to it, nobody there
            problem = f"Colab's secrets have no {SECRET} for it ({first_line(error)})"
            raise NotThisWayError(problem) from None
        self._use_key(keys, secret, SECRET)
        return f"the Colab secret {SECRET}"

    @classmethod
    def next_step(cls, keys: Keys) -> str:
        step = super().next_step(keys)
        by_hand = f"; or paste the file's text into a Colab secret {SECRET}"
        return step if isinstance(keys, GoogleKeys) else f"{step}{by_hand}"


def _authenticate(keys: Keys) -> str:
    auth = module("google.colab.auth")
    try:
        auth.authenticate_user()
    except Exception as error:  # noqa: BLE001 - nobody is there, the window was closed, …
        problem = f"Colab's sign-in was not completed ({first_line(error)})"
        raise NotThisWayError(problem) from None
    return "Colab's sign-in"
