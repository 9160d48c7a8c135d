"""`key=value` as the user types it, and as an entry point of an MLproject takes it.

A key that the entry point declares is passed as that parameter. All others travel together in the
parameter `overrides`, quoted as for a shell, because MLflow quotes each parameter as one word.

A mistyped key or choice of a Hydra configuration is reported before there is a run: the
configuration is composed from the files of the commit, as the entry point will compose it. Where
files alone cannot tell (parts that only code registers, options of the script beside the
overrides), nothing is refused: the entry point itself will report it.
"""

import ast
import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kaggleops.errors import UsageError

OVERRIDES = "overrides"
_PATH_LIKE = re.compile(r"(\.{1,2}|~)(/.*)?")
_PLAIN = re.compile(r"[\w./@%+-]+")


@dataclass(frozen=True)
class Overrides:
    """What the user set, in order."""

    # `key=value` each, in Hydra's own syntax (`+key=value`, `~key`, `key=[1,2]`)
    items: Sequence[str] = ()
    # what a relative path in a value is relative to. The run's own working directory is a fresh
    # clone, so a path like `../data` is made absolute before it gets there. None for a run on
    # another machine, where this one's folders are not.
    directory: Path | None = Path()

    def as_parameters(self, declared: Mapping[str, object], doing: str) -> dict[str, str]:
        """Return the parameters to run an entry point with; UsageError if it does not take one."""
        parameters: dict[str, str] = {}
        free: list[str] = []
        for item in self.items:
            key, equals, value = item.partition("=")
            if equals and key in declared and key != OVERRIDES:
                parameters[key] = value
            elif OVERRIDES in declared:
                free.append(self._absolute(item))
            elif key in declared and not equals:
                raise UsageError(doing, f"{key!r} has no value", f"Write {key}=VALUE.")
            else:
                takes = f"It takes: {', '.join(declared) or 'no parameters'}."
                hint = f"{did_you_mean(key, declared)} {takes}".lstrip()
                raise UsageError(doing, f"it does not take {item!r}", hint)
        if free:
            parameters[OVERRIDES] = shlex.join(free)
        return parameters

    def _absolute(self, item: str) -> str:
        key, equals, value = item.partition("=")
        bare = value[1:-1] if value[:1] == value[-1:] and value[:1] in ("'", '"') else value
        if self.directory is None or not equals or not _PATH_LIKE.fullmatch(bare):
            return item
        path = os.path.normpath(self.directory.absolute() / Path(bare).expanduser())
        if _PLAIN.fullmatch(path):
            return f"{key}={path}"
        escaped = path.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return a question that names what is known and spelled nearly so; "" if nothing is."""
    names = list(known)
    above, dot, last = key.rpartition(".")
    beside = [name[len(above + dot) :] for name in names if name.rpartition(".")[0] == above]
    near = [f"{above}{dot}{name}" for name in difflib.get_close_matches(last, beside, cutoff=0.7)]
    near = near or difflib.get_close_matches(key, names, cutoff=0.7)
    return f"Did you mean {' or '.join(near)}?" if near else ""


_PLACED = re.compile(r"(?<![\w./@+~-])([\w./@+~][\w./@+~-]*)=\{(\w+)\}")
"""A parameter in a command that is an override: `model={model}`."""

_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'\s")  # Hydra's word for `a=1,2`

# What is stored for Hydra itself, such as a launcher, is no part of a project's configuration.
_HYDRAS_OWN = r"\)\s*\.\s*store\(\s*group\s*=\s*[\"']hydra/"
_ONLY_IN_CODE = re.compile(rf"ConfigStore\s*\.\s*instance\((?!{_HYDRAS_OWN})|\(SearchPathPlugin\)")


def check_config_keys(
    folder: Path, command: str, parameters: Mapping[str, object], doing: str
) -> None:
    """Refuse overrides that the entry point's configuration has no key or choice for.

    `command` is the entry point's, with `{parameter}` where each goes; `parameters` is all that it
    is run with. Raises UsageError for such an override, or without a Hydra to compose them with.
    """
    free = shlex.split(str(parameters.get(OVERRIDES) or ""))
    placed = [
        f"{key}={parameters[name]}"
        for key, name in _PLACED.findall(command)
        if parameters.get(name) is not None
    ]
    place = configuration_of(folder, command)
    # Options, and sweeps in the program's own process, are for the program to judge.
    swept = any(each.startswith("-") or each == "hydra.mode=MULTIRUN" for each in free)
    if place is None or swept or _has_more_in_code(folder):
        return
    try:
        from hydra.errors import HydraException, MissingConfigException
        from omegaconf.errors import OmegaConfBaseException
    except ImportError:
        problem = f"its configuration {place.name} is Hydra's, which is not installed here"
        raise UsageError(doing, problem, "Install it: pip install hydra-core") from None

    given = [*placed, *free]
    chosen = [each for each in given if (place.parent / each.partition("=")[0]).is_dir()]
    groups = [each.name for each in sorted(place.parent.iterdir()) if each.is_dir()]
    known: list[str] = []
    try:
        for tried in ([], chosen, given):
            composed = _compose(place, tried)
            known = list(dict.fromkeys([*_flat(composed), *groups]))
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        if known and group:
            hint = did_you_mean(name, options) or f"Choose one of: {', '.join(options)}."
            raise UsageError(doing, f"there is no {group} {name!r}", hint) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not known:
            return  # it cannot be composed without the overrides, either
        for key in _keys(given):
            if key not in known:
                above = key.rpartition(".")[0]
                beside = [name for name in known if name.rpartition(".")[0] == above]
                beside = beside or [name for name in known if "." not in name]
                hint = did_you_mean(key, known) or f"There are: {', '.join(beside)}."
                raise UsageError(doing, f"there is no key {key}", hint) from None
        if match := _SEVERAL.match(str(error)):
            hint = f"`kaggleops sweep {shlex.quote(match[1])}` runs each. A list is KEY=[1,2]."
            problem = f"{match[1]} is several values, and a run takes one"
            raise UsageError(doing, problem, hint) from None
        said = re.sub(r"\s+", " ", str(error)).strip()
        raise UsageError(doing, f"it cannot take {shlex.join(given)}: {said}") from None


def literal_keys(folder: Path, command: str, declared: Iterable[str]) -> list[str]:
    """Return the parameters of an entry point that Hydra does not read: their text is the value."""
    hydras: set[str] = set()
    if configuration_of(folder, command):
        hydras = {OVERRIDES, *(name for _, name in _PLACED.findall(command))}
    return [name for name in declared if name not in hydras]


def choices_of(folder: Path, command: str) -> dict[str, list[str]]:
    """Return what can be chosen in each group of an entry point's configuration, by its files.

    A parameter that the command puts behind a group's name is one as well. Empty where there is no
    Hydra configuration.
    """
    place = configuration_of(folder, command)
    if place is None:
        return {}
    found: dict[str, list[str]] = {}
    for file in sorted(place.parent.rglob("*.yaml")):
        if group := file.parent.relative_to(place.parent).as_posix().removeprefix("."):
            found.setdefault(group, []).append(file.stem)
    for key, name in _PLACED.findall(command):
        if key in found:
            found.setdefault(name, found[key])
    return found


def check_choices(folder: Path, command: str, key: str, values: Iterable[str], doing: str) -> None:
    """Refuse values of a group's key that the configuration's files do not have."""
    group = key.lstrip("+").partition("@")[0]
    known = choices_of(folder, command).get(group)
    if not known or _has_more_in_code(folder):
        return
    for value in values:
        name = value.strip("'\"")
        if name not in known and name != "null" and not name.startswith("["):
            hint = did_you_mean(name, known) or f"Choose one of: {', '.join(known)}."
            raise UsageError(doing, f"there is no {group} {name!r}", hint)


def _has_more_in_code(folder: Path) -> bool:
    scripts = (file for file in folder.rglob("*.py") if file.is_file())
    return any(_ONLY_IN_CODE.search(file.read_text(errors="replace")) for file in scripts)


def configuration_of(folder: Path, command: str) -> Path | None:
    """Return the main file of the Hydra configuration that a command reads; None for none."""
    for word in re.split(r"[\s'\"]+", command):
        script = folder / word
        if word.endswith(".py") and script.is_file():
            given = _given_to_hydra(script)
            if given is not None:
                name = str(given.get("config_name") or "").removesuffix(".yaml")
                file = script.parent / str(given.get("config_path") or "") / f"{name}.yaml"
                return file.resolve() if name and file.is_file() else None
    file = folder / "config/config.yaml"
    try:
        usual = yaml.safe_load(file.read_text()) if file.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return file.resolve() if isinstance(usual, dict) and "defaults" in usual else None


def _given_to_hydra(script: Path) -> dict[str | None, Any] | None:
    """Return the plain values that a script calls `hydra.main` with; None if it does not."""
    with suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(script.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hydra.main":
                values = {each.arg: each.value for each in node.keywords}
                return {k: v.value for k, v in values.items() if isinstance(v, ast.Constant)}
    return None


def _compose(place: Path, overrides: list[str]) -> Mapping[Any, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(place.parent), version_base="1.3"):
        found = OmegaConf.to_container(compose(place.stem, overrides), resolve=False)
    return found if isinstance(found, dict) else {}


def _flat(node: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def _keys(overrides: list[str]) -> Iterator[str]:
    """Yield the keys that have to be there already."""
    for each in overrides:
        key = each.partition("=")[0].removeprefix("~")
        if not key.startswith(("+", "hydra.", "hydra/")) and "@" not in key:
            yield key
