"""What Kaggle's image puts before `google.cloud.storage`, in every process.

There the import of that name is answered by a hook: it imports the clients of six other services
of Google's first, ten seconds of them, to hand out what the notebook's add-on signed in with. Where
the add-on is on, people count on that, and so it stays. Where it is off the hook has nothing to
hand out, and what it returns in the end is the library as it is.

It hands out nothing to gcsfs, with which pandas reads `gs://…`: that is done here.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_LIBRARY = "google.cloud.storage"


def add_on_is_on() -> bool:
    """Tell whether Kaggle's add-on for Cloud Storage signs in this process's clients."""
    on = os.environ.get("KAGGLE_KERNEL_INTEGRATIONS", "").upper().split(":")
    return "GCS" in on and "KAGGLE_USER_SECRETS_TOKEN" in os.environ


def storage_library() -> ModuleType:
    """Return `google.cloud.storage`, past a hook that has nothing to hand out."""
    directly = _Directly()
    # Elsewhere a hook is somebody's own, and wanted.
    past = "KAGGLE_KERNEL_RUN_TYPE" in os.environ and not add_on_is_on()
    if past:
        sys.meta_path.insert(0, directly)
    try:
        from google.cloud import storage
    finally:
        if past:
            sys.meta_path.remove(directly)
    return storage


def sign_gcsfs_in() -> None:
    """Let gcsfs take what the add-on signed in with, where it is on and no key is named."""
    if not add_on_is_on() or "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
        return
    from fsspec.config import conf
    from google.auth.credentials import Credentials
    from google.auth.exceptions import RefreshError

    class OfAddOn(Credentials):
        # Kaggle's own class of that kind brings the ten seconds along.
        def refresh(self, request: object) -> None:
            try:
                secrets = importlib.import_module("kaggle_secrets").UserSecretsClient()
                self.token, self.expiry = secrets._get_gcs_access_token()
            except Exception as error:
                raise RefreshError(f"Kaggle's Cloud Storage add-on: {error}") from error

    credentials = OfAddOn()
    for protocol in ("gs", "gcs"):
        conf.setdefault(protocol, {}).setdefault("token", credentials)


class _Directly(MetaPathFinder):
    """Finds that library where it lies, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where it lies."""
        return PathFinder.find_spec(fullname, path) if fullname == _LIBRARY else None
