"""What surrounds a call of Kaggle's client: an error becomes one line, and nothing is printed."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import requests
from urllib3.exceptions import ReadTimeoutError

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import NoAnswerError, NotTakenError, NotThereError, SilenceError


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what the client raises into our errors."""
    try:
        yield
    except requests.HTTPError as error:
        raise _of_status(doing, error) from None  # its text has the address, which may be signed
    except requests.RequestException as error:
        silent = isinstance(error, requests.ReadTimeout) or any(
            isinstance(each, ReadTimeoutError) for each in error.args
        )
        problem = f"no answer from Kaggle ({type(error).__name__})"
        hint = "Check this machine's network; https://www.kagglestatus.com says how Kaggle is."
        raise (SilenceError if silent else NoAnswerError)(doing, problem, hint) from None
    except (AttributeError, KeyError, TypeError) as error:  # the client expects more than there is
        problem = f"Kaggle's answer cannot be read ({type(error).__name__})"
        raise NoAnswerError(doing, problem, "Try again.") from error
    except ValueError as error:  # the client's word for what it finds wrong by itself
        raise UsageError(doing, str(error)) from error


def _of_status(doing: str, error: requests.HTTPError) -> KaggleOpsError:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        hint = "Renew them: `kaggle auth login`."
        return UsageError(doing, "Kaggle does not accept this machine's credentials", hint)
    if status in (403, 404):
        return NotThereError(doing, f"Kaggle has no such thing for this user ({status})")
    if status == 429:
        return KaggleOpsError(doing, "Kaggle asks for fewer requests (429)", "Try again later.")
    if status >= 500:
        return NoAnswerError(doing, f"Kaggle has a fault ({status})", "Try again later.")
    return NotTakenError(doing, f"Kaggle refused it: {error}")


_lock = threading.Lock()
_inside = 0
_stdout: TextIO = sys.stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Let what is printed meanwhile go nowhere.

    `redirect_stdout` would let the thread that leaves last put back what the first had put there:
    from then on the whole process would be silent.
    """
    global _inside, _stdout
    with _lock:
        if not _inside:
            _stdout, sys.stdout = sys.stdout, io.StringIO()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside = max(0, _inside - 1)
            if not _inside:
                sys.stdout = _stdout


def _after_fork_in_child() -> None:
    # Threads that were quiet in the parent are not there to put it back.
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside, sys.stdout = 0, _stdout


os.register_at_fork(after_in_child=_after_fork_in_child)
