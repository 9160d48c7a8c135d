"""Where each platform keeps the runner's key: put there, replaced, and taken away.

On this machine a key lies only in private files, and in a dataset's folder while it is uploaded.
"""

import contextlib
import io
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.kaggle import sign_in
from kaggleops.platforms.keys import CredentialsError
from kaggleops.platforms.sign_in import KEY_FILE, SECRET

DATASET = "kaggleops-credentials"
"""The private dataset on Kaggle, of whoever signs in there."""


class KeyPlace(ABC):
    """Where one platform looks for the runner's key."""

    @abstractmethod
    def put(self, key: Mapping[str, Any]) -> str:
        """Put a key there in place of any other; return where that is, for people.

        Raises:
            CredentialsError: it could not be put there.
        """

    @abstractmethod
    def remove(self) -> None:
        """Take it away.

        Raises:
            CredentialsError: it could not be taken away.
        """

    def next_step(self) -> str:
        """Return what is left to do by hand; "" for nothing."""
        return ""


class File(KeyPlace):
    """A private file, to be mounted into a container."""

    def __init__(self, platform: str = "docker") -> None:
        self.path = state_folder() / "credentials" / platform / KEY_FILE

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        write_private(self.path, json.dumps(key))
        return str(self.path)

    def remove(self) -> None:
        """Take it away; see `KeyPlace.remove`."""
        self.path.unlink(missing_ok=True)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        variable = f"GOOGLE_APPLICATION_CREDENTIALS=/{KEY_FILE}"
        return f"docker run -v {self.path}:/{KEY_FILE}:ro -e {variable} …"


class ColabFile(File):
    """A private file, which `-b colab` uploads to each of its runtimes."""

    def __init__(self) -> None:
        super().__init__("colab")

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return "kaggleops run -b colab …"


class RunPodSecret(File):
    """A file to paste from: RunPod's API (v2) has no call for secrets."""

    def __init__(self) -> None:
        super().__init__("runpod")
        self.path = self.path.with_suffix(".base64")

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        # One line: an environment variable likes it better.
        write_private(self.path, b64encode(json.dumps(key).encode()).decode())
        return str(self.path)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return (
            "Paste the file's text into a new secret `kaggleops_key` (RunPod console > Secrets), "
            f"and create pods with {SECRET} = {{{{ RUNPOD_SECRET_kaggleops_key }}}}."
        )


class KaggleDataset(KeyPlace):
    """A private dataset, found by notebooks that have it among their data sources."""

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        api = sign_in()
        reference = f"{api.user}/{DATASET}"
        metadata = {"id": reference, "title": DATASET, "licenses": [{"name": "other"}]}
        with _private_folder() as folder, _explained("uploading the key to Kaggle"):
            write_private(folder / KEY_FILE, json.dumps(key))
            (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
            options = {"quiet": True, "convert_to_csv": False}
            if self._exists(api, reference):
                old = {"delete_old_versions": True}
                made = api.dataset_create_version(str(folder), "A new key", **options, **old)
            else:
                made = api.dataset_create_new(str(folder), public=False, **options)
            if getattr(made, "error", ""):  # a refusal comes as an answer like any other
                raise CredentialsError("uploading the key to Kaggle", made.error)
        return f"the private dataset {reference}"

    def remove(self) -> None:
        """Take it away; see `KeyPlace.remove`."""
        api = sign_in()
        with _explained("deleting the key's dataset at Kaggle"):
            if self._exists(api, f"{api.user}/{DATASET}"):
                api.dataset_delete(api.user, DATASET, no_confirm=True)

    def _exists(self, api: Any, reference: str) -> bool:
        found = api.dataset_list(mine=True, search=DATASET) or ()
        return any(each is not None and each.ref == reference for each in found)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return f"Add {DATASET} to a notebook's data; pushed ones name it in `dataset_sources`."


PLACES: Mapping[str, type[KeyPlace]] = {
    "kaggle": KaggleDataset,
    "runpod": RunPodSecret,
    "docker": File,
    "colab": ColabFile,
}


@contextmanager
def _private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kaggleops-key-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn whatever Kaggle's client raises into one line; its own chatter goes nowhere."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except CredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - requests', urllib3's, its own
        raise CredentialsError(doing, str(error) or type(error).__name__) from None
