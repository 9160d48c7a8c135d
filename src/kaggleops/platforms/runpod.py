"""RunPod."""

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from kaggleops.platforms.folders import write_private
from kaggleops.platforms.keys import Content, Keys
from kaggleops.platforms.platform import ROOT, SECRET, Platform

_REFERENCE = "{{ RUNPOD_SECRET_kaggleops_key }}"


class RunPod(Platform):
    """A pod, whose key is a secret of the account's, pasted by hand: its API has no call for it."""

    name = "runpod"
    title = "RunPod"
    backend = "runpod"
    _output = "workspace"
    _variable = "RunPod secret"

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return bool(environ.get("RUNPOD_POD_ID"))

    def _hint(self, keys: Keys) -> str:
        return (
            f"Create the pod with the environment variable {SECRET} = {_REFERENCE}; "
            "`kaggleops credentials create runpod` makes the key."
        )

    def _key_folder(self) -> Path:
        # A pod's state is on its network volume, which outlives it: never the key.
        return Path(os.environ.get(ROOT, "/")) / "root/.kaggleops/credentials"

    @classmethod
    def key_file(cls) -> Path:
        return super().key_file().with_suffix(".base64")

    @classmethod
    def put_key(cls, key: Content) -> str:
        # One line: an environment variable likes it better.
        write_private(cls.key_file(), b64encode(json.dumps(key).encode()).decode())
        return str(cls.key_file())

    @classmethod
    def next_step(cls, keys: Keys) -> str:
        return (
            "Paste the file's text into a new secret `kaggleops_key` (RunPod console > Secrets), "
            f"and create pods with {SECRET} = {_REFERENCE}."
        )
