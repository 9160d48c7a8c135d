"""Kaggle's own client, with time-outs and patience, and quiet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult

from kaggleops.errors import UsageError
from kaggleops.platforms.http import ASK_AGAIN, ASK_ONCE, READ, mount, session
from kaggleops.platforms.kaggle.answers import read_leniently
from kaggleops.platforms.kaggle.http import explained
from kaggleops.platforms.kaggle.quiet import quiet

_Answer = TypeVar("_Answer")


class Client(KaggleApi):
    """The client, signed in as the user of this machine.

    Args:
        again: whether a request may be repeated.
        silence: seconds without a byte after which an answer is given up.

    Raises:
        UsageError: there are no credentials.
    """

    def __init__(self, *, again: bool = True, silence: float = READ) -> None:
        super().__init__()
        self._retry = ASK_AGAIN if again else ASK_ONCE
        self._silence = silence
        try:
            with quiet(), explained("signing in to Kaggle"):
                self.authenticate()
        except SystemExit:
            raise UsageError(
                "signing in to Kaggle",
                "there are no credentials on this machine",
                "`kaggle auth login`, or a token from https://www.kaggle.com/settings in "
                "~/.kaggle/access_token.",
            ) from None

    @property
    def user(self) -> str:
        """The user's name, as it stands in addresses."""
        return str(self.config_values[self.CONFIG_NAME_USER])

    def build_kaggle_client(self) -> Any:
        """Return a connection; all of the client's calls make theirs here."""
        made = super().build_kaggle_client()
        http = made.http_client()
        http._init_session()
        mount(http._session, self._retry, self._silence)
        read_leniently(http)
        return made

    def with_retry(
        self, func: Callable[..., _Answer], *_: Any, **__: Any
    ) -> Callable[..., _Answer]:
        """Return the call as it is: the connection repeats it already, and gives up in time."""
        return func

    def upload_complete(self, path: str, url: str, quiet: bool, resume: bool = False) -> Any:
        """Send a file where Kaggle wants it, in one piece; the client tries that 100 times."""
        with session(self._silence) as http, Path(path).open("rb") as file:
            http.put(url, data=file).raise_for_status()
        return ResumableUploadResult.COMPLETE

    def ask(self, doing: str, method: str, request: Any, of: str = "kernel") -> Any:
        """Call a method of a service's and return its answer.

        Args:
            doing: what for.
            method: which.
            request: with what.
            of: of which service: "kernel" (notebooks), "competition".

        Raises:
            KaggleOpsError: in one line, whatever was wrong.
        """

        def call() -> Any:
            with self.build_kaggle_client() as kaggle:
                if of == "kernel":
                    service = kaggle.kernels.kernels_api_client
                else:
                    service = kaggle.competitions.competition_api_client
                return getattr(service, method)(request)

        return self.quietly(doing, call)

    @staticmethod
    def quietly(doing: str, call: Callable[[], _Answer]) -> _Answer:
        """Return what a call of the client's returns, and print nothing of what it prints.

        Raises:
            KaggleOpsError: in one line, whatever was wrong.
        """
        with quiet(), explained(doing):
            return call()
