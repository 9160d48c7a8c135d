"""Names and texts that MLflow takes, and that could not be read again: refused at the call.

MLflow's own checks let a line end pass at the end of a name, and know nothing of the 255 bytes that
a file's name may have; an archive with such a name is refused by every other machine.
"""

from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    bad_character_message,
    exceeds_maximum_length,
    invalid_value,
)

LONGEST_PART = 250
"""Bytes between two slashes of a name; a few of the 255 are for what it may be renamed to."""


def check_name(name: str, path: str = "name") -> None:
    """Refuse the name of a metric, param, tag or alias that no other machine could read.

    Args:
        name: one that MLflow's own check has let through.
        path: what MLflow calls it in its error.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE.
    """
    if name.endswith("\n"):
        raise MlflowException.invalid_parameter_value(
            invalid_value(path, name, bad_character_message())
        )
    if len(name) > MAX_ENTITY_KEY_LENGTH:
        raise MlflowException.invalid_parameter_value(
            exceeds_maximum_length(path, MAX_ENTITY_KEY_LENGTH)
        )
    if any(len(part.encode()) > LONGEST_PART for part in name.split("/")):
        problem = f"A name may have {LONGEST_PART} bytes of UTF-8 between two slashes, not more."
        raise MlflowException.invalid_parameter_value(invalid_value(path, name, problem))


def check_text(text: object, path: str) -> None:
    """Refuse text that is half a character (a lone surrogate), which no file can hold.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE.
    """
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        problem = f"It is not Unicode: {error}"
        raise MlflowException.invalid_parameter_value(
            invalid_value(path, ascii(text), problem)
        ) from None
