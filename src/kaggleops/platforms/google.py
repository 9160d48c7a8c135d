"""Google's keys: of a service account that may do nothing but use the bucket, made by `gcloud`."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kaggleops.bucket.location import S3_KEY
from kaggleops.platforms.cloud import CommandFailedError, output_of
from kaggleops.platforms.keys import Content, Key, Keys, NotThisWayError

ADC = "GOOGLE_APPLICATION_CREDENTIALS"


class GoogleKeys(Keys):
    """What opens a bucket of Cloud Storage."""

    title = "key of Google's"
    variable = ADC
    form = r"\A\s*\{"
    form_in_words = "Google's JSON as it is"
    hint = "Run `gcloud auth application-default login`, and try again."

    def already_there(self) -> str:
        if named := os.environ.get(ADC):
            if not Path(named).is_file():
                raise NotThisWayError(f"{ADC} names {named}, which is not there")
            return f"application-default credentials, {ADC}={named}"
        folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config/gcloud")
        if (folder / "application_default_credentials.json").is_file():
            return "application-default credentials of gcloud"
        # Nobody is there to sign in, and nobody has to: the machine is who the execution names.
        enterprise = os.environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE"
        return "the service account of Colab Enterprise" if enterprise else ""

    def at_last(self, own_machine: bool) -> str:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            return "none needed, STORAGE_EMULATOR_HOST names a test server"
        return "the service account of this machine" if own_machine and _on_google_cloud() else ""

    @classmethod
    def takes(cls, key: Content) -> bool:
        return bool(key["type"] != S3_KEY)

    @classmethod
    def for_clients(cls, key: Content) -> str:
        return json.dumps(key)

    def create(self, given: Callable[[], str]) -> tuple[str, Content]:
        with tempfile.TemporaryDirectory(prefix="kaggleops-key-") as folder:
            file = Path(folder, "key.json")
            self._gcloud("creating a key", "create", str(file))
            content: dict[str, Any] = json.loads(file.read_text())
            return content["private_key_id"], content

    def listed(self) -> list[Key]:
        options = ("list", "--managed-by=user", "--format=json")
        found = json.loads(self._gcloud("listing the keys", *options))
        keys = (Key(each["name"].rpartition("/")[2], each["validAfterTime"]) for each in found)
        return sorted(keys, key=lambda key: (key.created, key.id))

    def delete(self, key_id: str) -> str:
        try:
            self._gcloud(f"deleting key {key_id}", "delete", key_id, "--quiet")
        except CommandFailedError as error:
            if "NOT_FOUND" not in error.problem:
                raise
        return ""

    def _gcloud(self, what: str, *words: str) -> str:
        account, role = self.owner, "roles/iam.serviceAccountKeyAdmin"
        command = ("gcloud", "iam", "service-accounts", "keys", *words, f"--iam-account={account}")
        hint = f"Is {account} the right account? You need the role {role} on it."
        return output_of(command, f"{what} of {account}", hint)


def _on_google_cloud() -> bool:
    # Asked last, as it takes seconds; never on Colab and Kaggle, whose machines' account is theirs.
    import google.auth

    with suppress(google.auth.exceptions.DefaultCredentialsError):
        google.auth.default()
        return True
    return False
