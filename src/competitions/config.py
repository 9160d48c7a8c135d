"""Reading config/: Hydra composes it, the schema checks it, and every mistake becomes one line.

Hydra's compose API is used rather than its decorator, so that an unknown choice, an unknown key and
a value of a wrong type are each one `UsageError` that says what may be written instead.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from competitions.schema import READING, RunConfig
from competitions.tasks import task_class
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.redaction import names_a_secret
from kaggleops.resources.manifest import MANIFEST

CONFIG_DIR = Path(__file__).resolve().parents[2] / "config"
# Where a run keeps its model and its configuration, among its artifacts.
MODEL_FOLDER = "model"
CONFIG_FILE = "config.yaml"
_FROM_ENVIRONMENT = re.compile(r"oc\.env:\s*(\w+)")
# The choices that `mlflow run` takes as parameters of their own.
PARAMETERS = ("task", "model", "trainer", "fold")


@dataclass
class Settings:
    """A composed configuration: as objects for the code, as YAML and flat keys for the run."""

    config: RunConfig
    resolved: DictConfig
    experiment: str | None

    def yaml(self) -> str:
        """The whole configuration with every reference filled in, but for secrets."""
        return OmegaConf.to_yaml(self.resolved)

    def flat(self) -> dict[str, str]:
        """Dotted keys with their values as text, and the name of each choice (`task`, `model`)."""
        container = cast(dict[str, Any], OmegaConf.to_container(self.resolved, enum_to_str=True))
        groups = {
            name: str(node["name"])
            for name, node in container.items()
            if isinstance(node, Mapping) and "name" in node
        }
        chosen = {"experiment": self.experiment} if self.experiment else {}
        values = {key: str(value) for key, value in _flatten(container)}
        return groups | chosen | values


def compose(
    overrides: Iterable[str], base: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """The configuration that these overrides ("model=minilm", "trainer.epochs=3") make.

    `base` holds the values of some groups (of an earlier run, say) to start from instead of those
    in config/; a group that `overrides` choose anew is left out. Raises UsageError for a choice or
    key that does not exist, a key given twice, a value of a wrong type or out of range, and a
    required key that is missing.
    """
    overrides = list(overrides)
    given = _check(overrides)
    base = {group: node for group, node in (base or {}).items() if group not in given}
    names = [f"{group}={node['name']}" for group, node in base.items()]
    composed, experiment = _compose([*names, *overrides])
    for key, value in _flatten(base):
        if not any(f"{name}.".startswith(f"{key}.") for name in given):
            OmegaConf.update(composed, key, value)
    try:
        # What is wrong outside the task is told without importing it.
        general = OmegaConf.merge(OmegaConf.structured(RunConfig), composed)
        missing = sorted(OmegaConf.missing_keys(general))
        if missing:
            raise _missing_key(missing[0])
        config = cast(RunConfig, OmegaConf.to_object(general))
        config.check()
        resolved = cast(DictConfig, OmegaConf.merge(_schema(config.task["name"]), composed))
        config = cast(RunConfig, OmegaConf.to_object(resolved))
    except OmegaConfBaseException as error:
        raise _config_error(error) from None
    config.task.check()
    return Settings(config, _without_secrets(resolved), experiment)


def read_saved(path: Path) -> RunConfig:
    """The configuration that a run has kept as `CONFIG_FILE`; config/ itself is not needed."""
    saved = OmegaConf.load(path)
    return cast(RunConfig, OmegaConf.to_object(OmegaConf.merge(_schema(saved.task.name), saved)))


def _schema(task: str) -> Any:
    keys = OmegaConf.structured(task_class(task).config_class)
    return OmegaConf.merge(OmegaConf.structured(RunConfig), {"task": keys})


def _without_secrets(config: DictConfig) -> DictConfig:
    """Fill in every reference, but what leads to a secret of the environment: that is recorded."""
    as_written = dict(_flatten(OmegaConf.to_container(config)))
    OmegaConf.resolve(config)
    asked = _FROM_ENVIRONMENT.findall(str(as_written))
    secrets = [os.environ.get(name, "") for name in asked if names_a_secret(name)]
    for key, value in _flatten(OmegaConf.to_container(config)):
        if any(secret and secret in str(value) for secret in secrets):
            OmegaConf.update(config, key, as_written[key])
    return config


def choices(group: str) -> list[str]:
    """The names that `group` may take: its files in config/, but for the manifest of resources."""
    files = (CONFIG_DIR / group).glob("*.yaml")
    return sorted(path.stem for path in files if path.name != MANIFEST.name)


def overridden_choices(overrides: Iterable[str]) -> list[str]:
    """Where a choice on the command line beats the one an experiment makes, one note each.

    `mlflow run` always passes its parameters, also those left at their defaults, so an experiment
    started without its own model, say, would be run with another one and nobody would notice.
    """
    overrides = list(overrides)
    experiment = [text for text in overrides if text.startswith("experiment=")]
    if not experiment:
        return []
    alone, _ = _compose(experiment)
    together, name = _compose(overrides)
    notes = []
    for key in PARAMETERS:
        nodes = (together[key], alone[key])
        chosen, wanted = (n.get("name") if isinstance(n, DictConfig) else n for n in nodes)
        if chosen != wanted:
            notes.append(f"{key}={chosen} was given and beats {key}={wanted} of experiment={name}")
    return notes


def _check(overrides: list[str]) -> list[str]:
    """The keys of overrides, each of which is one, and given once."""
    given: dict[str, str] = {}
    for override in map(_parse, overrides):
        key, text = str(override.key_or_group), str(override.input_line)
        if given.setdefault(key, text) != text:
            hint = f"Leave one out: {key} is a parameter of its own" if key in PARAMETERS else ""
            problem = f"{key} is given twice, as {given[key]} and as {text}"
            raise UsageError(READING, problem, hint)
    return list(given)


def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        problem = f"{override!r} is not an override"
        hint = "Write key=value, and quote a value with special characters: key='a, b'"
        raise UsageError(READING, problem, hint) from None


def _compose(overrides: list[str]) -> tuple[DictConfig, str | None]:
    if not CONFIG_DIR.is_dir():
        problem = f"there is no folder {CONFIG_DIR}"
        raise KaggleOpsError(READING, problem, "Run from a clone of the repository")
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = hydra_compose("config", overrides, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        hint = f"Choose {group}=<one of: {', '.join(choices(group))}>"
        raise UsageError(READING, f"there is no {group} '{name}'", hint) from None
    except OmegaConfBaseException as error:
        raise _config_error(error) from None
    except (HydraException, ValueError) as error:
        if isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError):
            raise _config_error(error.__cause__) from None
        raise UsageError(READING, first_line(error)) from None
    experiment = composed.hydra.runtime.choices.get("experiment")
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, experiment


def _missing_key(key: str) -> UsageError:
    value = "<folder or URL>" if key == "data.dir" else "<value>"
    return UsageError(READING, f"{key} is missing", f"Give it: {key}={value}")


def _config_error(error: OmegaConfBaseException) -> UsageError:
    """What omegaconf objects to, as one line about one key."""
    key = str(error.full_key)
    if isinstance(error, MissingMandatoryValue):
        return _missing_key(key)
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return UsageError(READING, f"there is no key {key}", f"{CONFIG_DIR} has all of them")
    problem = str(error.msg or error).splitlines()[0]
    return UsageError(READING, f"{key}: {problem[0].lower()}{problem[1:]}")


def _flatten(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, node
