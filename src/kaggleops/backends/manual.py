"""Nobody's machine: the ready notebook, for a person to carry to Colab or Kaggle.

The run is in the bucket as SCHEDULED until somebody runs the notebook, wherever that is. This is
the smallest backend: what it leaves out has a default in `interface.Host`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.own_files import leave_out

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

    name = "manual"
    config_type = ManualConfig

    def check(self, tracking_uri: str, config: ManualConfig) -> None:
        if not Path(config.folder).is_dir():
            raise KaggleOpsError(
                f"writing a notebook into {config.folder}", "there is no such folder"
            )

    def place(self, run_id: str, config: ManualConfig) -> dict[str, str]:
        return {NOTEBOOK_FILE: str(Path(config.folder).absolute() / f"run-{run_id[:8]}.ipynb")}

    def send(self, tags: Mapping[str, str], notebook: str, config: ManualConfig) -> None:
        file = Path(tags[NOTEBOOK_FILE])
        try:
            file.write_text(notebook)
            leave_out(file)
        except OSError as error:
            raise KaggleOpsError(f"writing {file}", str(error)) from error

    def state(self, tags: Mapping[str, str]) -> None:
        return None  # only the bucket can be asked

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        problem = "only the notebook that a person opened has it"
        raise UsageError("reading the log", problem, "`kaggleops status` says where it is.")

    def steps(self, tags: Mapping[str, str]) -> list[str]:
        return [f"Take {tags[NOTEBOOK_FILE]} to either:", *_STEPS]
