"""Kaggle's module of that name, as far as its answers go; the secrets lie in a file.

Read in Kaggle/docker-python, patches/kaggle_secrets.py: a secret that is not attached is a
BackendError that quotes the service's answer; no network is a plain ConnectionError; without the
notebook's token not even the client can be made.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path


class CredentialError(Exception):
    pass


class BackendError(Exception):
    pass


class ValidationError(Exception):
    pass


class GcpTarget(Enum):
    BIGQUERY = 1
    GCS = 2
    CLOUDAI = 5


class UserSecretsClient:
    def __init__(self) -> None:
        if "KAGGLE_USER_SECRETS_TOKEN" not in os.environ:
            raise CredentialError("A JWT Token is required to use the UserSecretsClient")

    def get_secret(self, label: str) -> str:
        if not label:
            raise ValidationError("Label must be non-empty.")
        file = Path(os.environ["FAKE_KAGGLE_SECRETS"])
        if not file.exists():
            raise ConnectionError("Connection error trying to communicate with service.")
        secrets = json.loads(file.read_text())
        if label not in secrets:
            answer = {"errors": ["No user secrets exist for kernel"], "wasSuccessful": False}
            raise BackendError(f"Unexpected response from the service. Response: {answer}.")
        return str(secrets[label])

    def _get_gcs_access_token(self) -> tuple[str, datetime]:
        expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
        return self.get_secret("the add-on's token"), expiry
