"""Colab's sign-in: with a person it leaves application-default credentials, without it fails."""

import os
from pathlib import Path


def authenticate_user() -> None:
    key = Path(os.environ["FAKE_COLAB_KEY"]).read_text()
    if not key:
        raise ValueError("credential propagation was unsuccessful")
    folder = Path.home() / ".config/gcloud"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "application_default_credentials.json").write_text(key)
    os.environ["CLOUDSDK_CONFIG"] = str(folder)
