"""Nobody's machine: the ready notebook, for a person to carry to Colab or Kaggle.

The run is in the bucket as SCHEDULED until somebody runs the notebook, wherever that is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config
from kaggleops.backends.downloads import Downloaded
from kaggleops.errors import KaggleOpsError

NOTEBOOK_FILE = "notebook_file"
"""The tag of a run that names its ready notebook, on the machine that wrote it."""

_STEPS = (
    "Colab   https://colab.research.google.com  File > Upload notebook, then Runtime > Run all",
    "Kaggle  https://www.kaggle.com/code/new  File > Import notebook, then Save Version",
)


@dataclass(frozen=True)
class ManualConfig(Config):
    """The fields of config/backend/manual.yaml, where each is explained."""

    folder: str = "."


class ManualBackend(Backend[ManualConfig]):
    """Writes the ready notebook."""

    name: ClassVar[str] = "manual"
    config_type = ManualConfig

    def check(self, tracking_uri: str, config: ManualConfig) -> None:
        """Make sure that there is a folder for the notebook."""
        if not Path(config.folder).is_dir():
            raise KaggleOpsError(
                f"writing a notebook into {config.folder}", "there is no such folder"
            )

    def place(self, run_id: str, config: ManualConfig) -> dict[str, str]:
        """Return the tag that names the notebook's file."""
        return {NOTEBOOK_FILE: str(Path(config.folder).absolute() / f"run-{run_id[:8]}.ipynb")}

    def send(self, tags: Mapping[str, str], notebook: str, config: ManualConfig) -> None:
        """Write the notebook."""
        file = Path(tags[NOTEBOOK_FILE])
        try:
            file.write_text(notebook)
        except OSError as error:
            raise KaggleOpsError(f"writing {file}", str(error)) from error

    def state(self, tags: Mapping[str, str]) -> None:
        """Return None: nobody but the bucket can be asked."""
        return None

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Refuse: what it prints is seen where it runs.

        Raises:
            KaggleOpsError: always.
        """
        problem = "only the notebook that a person opened has it"
        raise KaggleOpsError("reading the log", problem, "`kaggleops status` says where it is.")

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring nothing: what is no artifact stays where it ran."""
        return Downloaded()

    def page(self, tags: Mapping[str, str]) -> str:
        """Return "": the notebook is wherever it was carried to."""
        return ""

    def steps(self, tags: Mapping[str, str]) -> list[str]:
        """Return where to take the notebook."""
        return [f"Take {tags[NOTEBOOK_FILE]} to either:", *_STEPS]
