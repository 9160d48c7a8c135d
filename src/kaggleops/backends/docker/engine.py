"""Docker's own client, and what goes wrong with it in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from kaggleops.backends.base import RefusedError
from kaggleops.errors import KaggleOpsError, UsageError


class GoneError(KaggleOpsError):
    """There is no such container or image."""


def connect() -> Any:
    """Return a client of the engine that `DOCKER_HOST` names, of this machine's by default.

    Raises:
        UsageError: the client is not installed.
        KaggleOpsError: no engine answers.
    """
    try:
        import docker
    except ModuleNotFoundError as error:
        hint = "Install it: pip install 'kaggleops[docker]'."
        raise UsageError("using Docker", f"{error.name} is not installed", hint) from None
    with explained("asking the container engine"):
        return docker.from_env()


@contextmanager
def explained(doing: str, *, refusing: bool = False) -> Iterator[None]:
    """Turn what the client raises into one line.

    Args:
        doing: what is being done, for the error.
        refusing: whether the engine's no means that nothing runs there.

    Raises:
        GoneError: there is no such container or image.
        RefusedError: the engine said no to what would run there.
        KaggleOpsError: it said no to anything else, or did not answer.
    """
    from docker import errors
    from requests import exceptions

    try:
        yield
    except errors.NotFound as error:
        raise GoneError(doing, str(error.explanation)) from error
    except errors.APIError as error:
        said = str(error.explanation or error)
        hint = ""
        if "could not select device driver" in said:
            said = "the engine gives no GPU to containers"
            hint = "Install NVIDIA's container toolkit, or take a configuration without `gpus`."
        # One of that name is there, whatever the engine said when it was asked.
        refused = refusing and error.status_code != HTTPStatus.CONFLICT
        raise (RefusedError if refused else KaggleOpsError)(doing, said, hint) from error
    except (errors.DockerException, exceptions.RequestException, OSError) as error:
        if "Permission denied" in str(error):
            problem = "you may not use its socket"
            hint = "Let an administrator add you to the group docker, and sign in again."
        else:
            problem = "no engine answers"
            hint = "Start Docker, or name another engine's socket in DOCKER_HOST."
        raise KaggleOpsError(doing, problem, hint) from error
    except KaggleOpsError:
        raise
    except Exception as error:  # the client takes what it expects for granted
        problem = f"the engine's answer cannot be read ({type(error).__name__})"
        raise KaggleOpsError(doing, problem, "Is it Docker that answers there?") from error
