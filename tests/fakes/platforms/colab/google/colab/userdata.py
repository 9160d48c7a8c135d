"""Colab's secrets: they answer in its web page alone, where a test says which there are.

Read in googlecolab/colabtools, google/colab/userdata.py.
"""

import json
import os
from pathlib import Path


class SecretNotFoundError(Exception):
    pass


class TimeoutException(Exception):  # noqa: N818 - its real name
    pass


def get(key: str) -> str:
    if "FAKE_COLAB_SECRETS" not in os.environ:
        raise TimeoutException(f"Requesting secret {key} timed out.")
    secrets = json.loads(Path(os.environ["FAKE_COLAB_SECRETS"]).read_text())
    if key not in secrets:
        raise SecretNotFoundError(f"Secret {key} does not exist.")
    return str(secrets[key])
