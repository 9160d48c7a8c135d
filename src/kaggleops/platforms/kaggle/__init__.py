"""Kaggle's own client as this project uses it: signed in, with time-outs, and quiet."""

from typing import TYPE_CHECKING, Any

from kaggleops.errors import UsageError
from kaggleops.platforms.kaggle.quiet import quiet

if TYPE_CHECKING:
    from kaggleops.platforms.kaggle.client import Client


def sign_in(**how: Any) -> "Client":
    """Return the client, signed in as the user of this machine.

    Args:
        how: as for `kaggleops.platforms.kaggle.client.Client`.

    Raises:
        UsageError: Kaggle's package is not installed, cannot make its folder, or there are no
            credentials.
    """
    try:
        # Where nobody is signed in, importing it prints a page.
        with quiet():
            import kaggle  # noqa: F401 - its modules alone cannot be imported once that has failed

            from kaggleops.platforms.kaggle.client import Client
    except ModuleNotFoundError as error:
        hint = "Install it: pip install 'kaggleops[kaggle]'."
        raise UsageError("using Kaggle", f"{error.name} is not installed", hint) from None
    except OSError as error:
        problem = f"its client cannot make its folder ({error.strerror}: {error.filename})"
        hint = "Name one in KAGGLE_CONFIG_DIR."
        raise UsageError("using Kaggle", problem, hint) from None
    return Client(**how)
