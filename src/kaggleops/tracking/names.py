"""Names and texts that MLflow takes, and that could not be read again: refused at the call.

MLflow's own checks allow a line end at the end of a name, and do not know of the 255 bytes that a
file's name may have; an archive with such a name is refused by every other machine.

An experiment's id is made from its name: two notebooks that create the same experiment at the same
moment create one, without a request.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    bad_character_message,
    exceeds_maximum_length,
    invalid_value,
)

from kaggleops.layout import DEFAULT_ID, DEFAULT_NAME

LONGEST_PART = 250
"""Bytes between two slashes of a name; a few of the 255 are for what it may be renamed to."""


def check_name(name: str, path: str = "name") -> None:
    """Refuse the name of a metric, param, tag or alias that no other machine could read.

    It has passed MLflow's own check; `path` is what MLflow calls it in its error.
    """
    if name.endswith("\n"):
        problem = invalid_value(path, name, bad_character_message())
    elif len(name) > MAX_ENTITY_KEY_LENGTH:
        problem = exceeds_maximum_length(path, MAX_ENTITY_KEY_LENGTH)
    elif any(len(part.encode()) > LONGEST_PART for part in name.split("/")):
        most = f"A name may have {LONGEST_PART} bytes of UTF-8 between two slashes, not more."
        problem = invalid_value(path, name, most)
    else:
        return
    raise MlflowException.invalid_parameter_value(problem)


def check_text(text: object, path: str) -> None:
    """Refuse text that is half a character (a lone surrogate), which no file can hold."""
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        problem = invalid_value(path, ascii(text), f"It is not Unicode: {error}")
        raise MlflowException.invalid_parameter_value(problem) from None


_LARGEST = 2**31 - 1  # experiments.experiment_id is a 32-bit INTEGER in MLflow's SQL schema


def experiment_ids(name: str) -> Iterator[str]:
    """Yield the ids that an experiment of this name may have, in the order in which to try them.

    The next is for where an id is taken by an experiment that was renamed since.
    """
    if name == DEFAULT_NAME:
        yield DEFAULT_ID
    for attempt in count():
        digest = hashlib.sha256(f"{name}\0{attempt}".encode()).digest()
        yield str(1 + int.from_bytes(digest[:8]) % _LARGEST)
