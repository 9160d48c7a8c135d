"""Kaggle's module of that name, as far as Cloud Storage goes.

Read in Kaggle/docker-python, patches/kaggle_gcp.py: it imports the clients of six services, and
gives those of Cloud Storage that are told of no credentials the ones of the add-on, if that is on.
Here a line in a file stands for these imports, and as many seconds as the environment says.
"""

import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from google.auth import credentials
from kaggle_secrets import GcpTarget, UserSecretsClient

with Path(os.environ["FAKE_KAGGLE_HOOK"]).open("a") as _file:
    _file.write(f"{sys.orig_argv}\n")
time.sleep(float(os.environ.get("FAKE_KAGGLE_HOOK_SECONDS", "0")))


class KaggleKernelCredentials(credentials.Credentials):
    def refresh(self, request: object) -> None:
        self.token, self.expiry = UserSecretsClient()._get_gcs_access_token()


def init_gcs() -> ModuleType:
    from google.cloud import storage

    on = os.environ.get("KAGGLE_KERNEL_INTEGRATIONS", "").split(":")
    named = {GcpTarget[each.upper()] for each in on if each.upper() in GcpTarget.__members__}
    if "KAGGLE_USER_SECRETS_TOKEN" in os.environ and GcpTarget.GCS in named:
        _hand_out(storage.Client)
    return storage


def _hand_out(client: Any) -> None:
    begin = client.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if kwargs.get("credentials") is None:
            kwargs["credentials"] = KaggleKernelCredentials()
        begin(self, *args, **kwargs)

    client.__init__ = __init__
