"""A backend's configuration: typed, and refused with one line before anything is sent.

The fields are those of `config/backend/<backend>.yaml` and of the JSON that `mlflow run
--backend-config` takes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from mlflow.projects import utils as mlflow_projects
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from kaggleops.errors import UsageError
from kaggleops.launch.overrides import did_you_mean
from kaggleops.platforms.platform import Platform
from kaggleops.redaction import redacted

Count = Annotated[int, Field(ge=1)]
"""A field that says how many, sessions say: 1 or more."""

PACKAGES = (
    *("hydra-core>=1.3.2", "transformers>=5.0", "accelerate>=1.3", "scikit-learn>=1.5"),
    *("pandas>=2.2", "matplotlib>=3.8", "nvidia-ml-py>=12.535"),
)
"""What src/competitions trains with, beside torch."""


@dataclass(frozen=True)
class Config:
    """What every backend takes."""

    # For pydantic, which every MLflow brings: YAML reads a version such as 12.8 as a number.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", coerce_numbers_to_str=True
    )
    lasts: ClassVar[str] = ""
    """The field that says how long a session lasts, if there is one."""

    # what pip installs KaggleOps from on the machine; where it is published if empty
    install_from: str = ""

    def check(self, doing: str) -> None:
        """Check what types cannot say; raise UsageError with `doing` for what cannot be meant."""


@dataclass(frozen=True)
class KeyConfig(Config):
    """What a backend takes that hands the bucket's key to its machines itself."""

    platform: ClassVar[type[Platform]]

    credentials: str = ""

    @property
    def key_file(self) -> Path:
        """The key of the bucket."""
        if self.credentials:
            return Path(self.credentials).expanduser().absolute()
        return self.platform.key_file()


AnyConfig = TypeVar("AnyConfig", bound=Config)

# What mlflow.projects adds to the configuration that its user wrote.
_MLFLOWS = {value for name, value in vars(mlflow_projects).items() if name.startswith("PROJECT_")}


def read_config(kind: type[AnyConfig], given: Mapping[str, Any], source: str) -> AnyConfig:
    """Return a configuration of a kind from its fields; what MLflow adds to them is skipped.

    Raises UsageError, which names the `source`, if a field does not exist, has a value that it
    cannot have, or one with a secret.
    """
    doing = f"reading {source}"
    known = [field.name for field in fields(kind)]
    values = {key: value for key, value in given.items() if key not in _MLFLOWS}
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(str(key), known) or f"There are: {', '.join(known)}."
            raise UsageError(doing, f"there is no field {str(key)!r}", hint)
        for text in map(str, value if isinstance(value, list) else [value]):
            if redacted(text) != text:
                problem = f"{key}: {text} holds a secret, and would stand where others read it"
                hint = "Name what can be had without one, or let the machine have its own secrets."
                raise UsageError(doing, problem, hint)
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        # What people name themselves (`env`) may be a secret: no message repeats it.
        own = {each.name for each in fields(kind) if each.default_factory is dict}
        value = "" if first["loc"][0] in own else f"{first['input']!r:.50}: "
        said = f"{where}: {value}{first['msg'][0].lower()}{first['msg'][1:]}"
        raise UsageError(doing, said) from None
    config.check(doing)
    return config


def read_file(path: Path) -> dict[str, Any]:
    """Return the fields of a configuration's file, YAML or JSON; UsageError if it has none."""
    doing = f"reading {path}"
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise UsageError(doing, str(error)) from None
    if found is not None and not isinstance(found, dict):
        raise UsageError(doing, "it is not a mapping of fields to values")
    return found or {}
