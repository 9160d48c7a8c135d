"""What lies where in a bucket (docs/bucket-format.md): only this file spells prefixes and keys.

Each MLflow entity has its folder in a file-store `mlruns` and its object in the bucket:

    mlruns/<experiment>.tar.gz                      mlruns/<experiment>/{meta.yaml,tags/}
    mlruns/<experiment>/<run>.tar.gz                mlruns/<experiment>/<run>/
    mlruns/<experiment>/models/<model>.tar.gz       mlruns/<experiment>/models/<model>/
    mlruns/<experiment>/traces/<trace>.tar.gz       mlruns/<experiment>/traces/<trace>/
    mlruns/<experiment>/datasets/<dataset>.tar.gz   mlruns/<experiment>/datasets/<dataset>/
    mlruns/models/<registered model>.tar.gz         mlruns/models/<registered model>/

One listing with "/" as delimiter gives the experiments, one of `mlruns/<experiment>/` its runs.
The file store moves a deleted experiment to `.trash/`; its object keeps its key.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

MLRUNS = "mlruns"
LOG_KEY = f"{MLRUNS}/changes.json"  # The change log (mlruns/change_log.py)
INDEX_KEY = f"{MLRUNS}/index.jsonl.gz"  # Rows for machines without an index (index/snapshot.py)
WATCHER_KEY = f"{MLRUNS}/watcher.json"  # The lease of a watcher of sweeps (campaign/lease.py)
ARTIFACTS = "artifacts"
CODE = "code"  # Commits that runners cannot clone, as bundles
COLAB = "colab"  # Notebooks that Colab Enterprise executed, of earlier versions
DOCTOR = "doctor"  # What `kaggleops doctor` writes, and deletes
TRIALS = f"{DOCTOR}/try-"  # How the names of `doctor --try`'s folders begin
LOGS = "logs"  # The logs that pods of RunPod leave
PAGE = "page"
PAGE_KEY = f"{PAGE}/index.html"  # The campaign as an HTML page (campaign/view.py)
SERVER = "server"  # What a server's machine installs, as root
BESIDE_RUNS = (ARTIFACTS, CODE, COLAB, DOCTOR, LOGS, PAGE, SERVER)
OUTPUT = "output.txt"  # The artifact of a run that has what its training printed (launch/output.py)
LEFT_BY_JOBS = (f"{LOGS}/{{}}.txt", f"{COLAB}/{{}}/")  # beside a run, by its id
SUFFIX = ".tar.gz"
DEFAULT_ID, DEFAULT_NAME = "0", "Default"  # The experiment that MLflow takes for granted

_EXPERIMENT_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,63}", re.ASCII)
_ENTITY_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,255}", re.ASCII)
_MAX_NAME_BYTES = 255  # as file systems have it
_RESERVED_IN_EXPERIMENT = {"tags", "datasets", "traces", "models"}
# A registered model's name is free text; these stay readable in its key.
_READABLE = " !#$&'()+,;=@[]"


class Kind(StrEnum):
    """The entities that MLflow's file store knows."""

    EXPERIMENT = "experiment"
    RUN = "run"
    LOGGED_MODEL = "logged model"
    TRACE = "trace"
    DATASET = "dataset"
    REGISTERED_MODEL = "registered model"


_FOLDERS = {
    Kind.RUN: "",
    Kind.LOGGED_MODEL: "models/",
    Kind.TRACE: "traces/",
    Kind.DATASET: "datasets/",
}
"""Where in an experiment's folder its entities of a kind lie."""
_KIND_OF_FOLDER = {folder[:-1]: kind for kind, folder in _FOLDERS.items() if folder}


@dataclass(frozen=True, order=True)
class EntityId:
    """Names one entity.

    Args:
        kind: what it is.
        experiment_id: the experiment it belongs to (itself, for one); "" for a registered model.
        name: its id within the experiment; "" for an experiment, the name of a registered model.
    """

    kind: Kind
    experiment_id: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name or self.experiment_id}"

    @property
    def key(self) -> str:
        """Its object's key in the bucket."""
        return f"{MLRUNS}/{self._stem(quoted=True)}{SUFFIX}"

    @property
    def folder(self) -> str:
        """Its folder in a file-store `mlruns`, relative, "/"-separated (never in `.trash`)."""
        return self._stem(quoted=False)

    def _stem(self, *, quoted: bool) -> str:
        if self.kind is Kind.EXPERIMENT:
            return self.experiment_id
        if self.kind is Kind.REGISTERED_MODEL:
            return f"models/{quote(self.name, safe=_READABLE) if quoted else self.name}"
        return f"{self.experiment_id}/{_FOLDERS[self.kind]}{self.name}"


def experiment(experiment_id: str) -> EntityId:
    """Name an experiment."""
    return EntityId(Kind.EXPERIMENT, experiment_id)


def run(experiment_id: str, run_id: str) -> EntityId:
    """Name a run."""
    return EntityId(Kind.RUN, experiment_id, run_id)


def prefix_of(kind: Kind, experiment_id: str = "") -> str:
    """Return the prefix under which the entities of a kind lie, without deeper ones.

    Args:
        kind: which entities.
        experiment_id: of which experiment; ignored for experiments and registered models.
    """
    if kind is Kind.EXPERIMENT:
        return f"{MLRUNS}/"
    if kind is Kind.REGISTERED_MODEL:
        return f"{MLRUNS}/models/"
    return f"{MLRUNS}/{experiment_id}/{_FOLDERS[kind]}"


def glob_of(kind: Kind, name: str) -> str:
    """Return the glob that finds an entity of a known id in whichever experiment it lies."""
    return f"{MLRUNS}/*/{_FOLDERS[kind]}{name}{SUFFIX}"


def parse_key(key: str) -> EntityId | None:
    """Return the entity that an object's key names, or None for an object that is none of ours."""
    if not (key.startswith(f"{MLRUNS}/") and key.endswith(SUFFIX)):
        return None
    parts = key[len(MLRUNS) + 1 : -len(SUFFIX)].split("/")
    match parts:
        case [experiment_id] if is_experiment_id(experiment_id):
            return experiment(experiment_id)
        case ["models", name] if is_model_name(unquote(name)):
            found = EntityId(Kind.REGISTERED_MODEL, "", unquote(name))
            return found if found.key == key else None
        case [experiment_id, run_id] if is_experiment_id(experiment_id) and is_run_id(run_id):
            return run(experiment_id, run_id)
        case [experiment_id, folder, name] if (
            is_experiment_id(experiment_id)
            and folder in _KIND_OF_FOLDER
            and _ENTITY_ID.fullmatch(name)
        ):
            return EntityId(_KIND_OF_FOLDER[folder], experiment_id, name)
    return None


def artifact_owner(path: str) -> EntityId | None:
    """Return whose artifact lies at this path below a root, in the file store's layout.

    None for what is no artifact: a file of an entity itself, above all.
    """
    match path.split("/"):
        case [home, name, "artifacts", _, *_] if is_experiment_id(home) and is_run_id(name):
            return run(home, name)
        case [home, ("models" | "traces") as folder, name, "artifacts", _, *_] if is_experiment_id(
            home
        ) and _ENTITY_ID.fullmatch(name):
            return EntityId(_KIND_OF_FOLDER[folder], home, name)
    return None


def is_experiment_id(text: str) -> bool:
    """Tell whether MLflow would take this as an experiment's id."""
    return bool(_EXPERIMENT_ID.fullmatch(text)) and text != "models"


def is_model_name(text: str) -> bool:
    """Tell whether this can be a registered model's name: the name of its folder, too."""
    # A "/" in it, or ".." for it, would lead out of the folder of all models.
    unfit = text in ("", ".", "..") or any(character in text for character in "/\\\0")
    half_a_character = any("\ud800" <= character <= "\udfff" for character in text)
    return not (unfit or half_a_character) and len(text.encode()) <= _MAX_NAME_BYTES


def is_run_id(text: str) -> bool:
    """Tell whether MLflow would take this as a run's id."""
    return bool(_ENTITY_ID.fullmatch(text)) and text not in _RESERVED_IN_EXPERIMENT
