"""From what a person typed to a sweep that can begin: all that is wrong with it is found here.

Nothing is written, here or in the bucket.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kaggleops.backends.lookup import backend_named, names
from kaggleops.campaign.placement import Budget, Decision, Waiting, place
from kaggleops.campaign.plan import asked
from kaggleops.campaign.space import Space, read_space
from kaggleops.campaign.sweep import Job, Sweep
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import Commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch.launcher import (
    Launch,
    prepared,
    project_in,
    refuse_no_number,
    refuse_secrets,
    temporary_folder,
)
from kaggleops.launch.overrides import (
    Overrides,
    check_choices,
    choices_of,
    configuration_of,
    literal_keys,
)

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.backends.interface import Offer

FOLD = "fold"
"""The axis that is taken for the folds of one training, unless another is named."""

AUTO = "auto"


def sweep_of(
    commit: Commit, what: Launch, asked: Sweep, typed: Sequence[str], fold_axis: str | None
) -> tuple[Sweep, str]:
    """Return a sweep whose jobs the commit will take, and the name of its experiment.

    `asked` says how points are found; `typed` are axes and what sets one value, as `key=…`;
    `fold_axis` is the key of the folds, "" for none, None for `fold` if that is swept. Overrides of
    `what` are not looked at. Raises UsageError if the commit has no such entry point, or that does
    not take a point, or the space is none.
    """
    doing = f"planning a sweep of {commit.sha[:7]}"
    with temporary_folder() as folder:
        files = write_project_files(commit, folder / "code")
        _, entry_point = project_in(files, what.entry_point, doing)
        command, declared = entry_point.command, entry_point.parameters
        choices = choices_of(files, command)
        items = _merged(_configured(files, command, typed), typed)
        refuse_secrets(items, doing, allowed=what.allow_secrets)
        literal = set(literal_keys(files, command, declared))
        space = read_space(items, lambda group: choices.get(group, []), literal=literal)
        sweep = replace(
            asked,
            axes=space.expressions,
            overrides=space.fixed,
            literal=sorted(literal & {axis.key for axis in space.axes}),
            entry_point=what.entry_point,
            fold_axis=_fold_axis(space, fold_axis),
        )
        sweep = replace(sweep, folds=space.split(sweep.fold_axis)[1])
        for axis in space.axes:
            check_choices(files, command, axis.key, axis.values, doing)
            for value in axis.values:
                refuse_no_number(entry_point, axis.key, value, doing)
        firsts = [each.values[0] if each.values else each.text(each.low) for each in space.axes]
        job = [f"{axis.key}={first}" for axis, first in zip(space.axes, firsts, strict=True)]
        checked = replace(what, overrides=Overrides([*space.fixed, *job], None))
        given, defaults, project = prepared(files, commit, checked, None)
    name = what.experiment or given.get("task") or defaults.get("task") or project
    return sweep, str(name or "Default")


def _configured(files: Path, command: str, typed: Sequence[str]) -> Iterator[str]:
    """Yield the axes of `hydra.sweeper.params` in a commit's configuration and chosen groups."""
    main = configuration_of(files, command)
    if main is None:
        return
    chosen = [item.lstrip("+").partition("=") for item in typed]
    for file in [main, *(main.parent / key / f"{value}.yaml" for key, _, value in chosen)]:
        if file.resolve().is_relative_to(main.parent) and file.is_file():
            try:
                found: Any = yaml.safe_load(file.read_text())
            except (UnicodeDecodeError, yaml.YAMLError):
                continue  # composing it says so
            for key in ("hydra", "sweeper", "params"):
                found = found.get(key) if isinstance(found, dict) else None
            for key, value in found.items() if isinstance(found, dict) else ():
                if isinstance(value, dict | list):
                    doing, hint = f"reading {file.relative_to(files)}", f"Write `{key}: 1,2,3`."
                    raise UsageError(doing, f"{key} is not one text", hint)
                is_word = value is None or isinstance(value, bool)  # which Hydra spells as JSON
                yield f"{key}={json.dumps(value) if is_word else value}"


def _merged(*layers: Iterable[str]) -> list[str]:
    """Return the items of all layers, a key's from the last layer that has it."""
    items: dict[str, list[str]] = {}
    for layer in layers:
        mine: dict[str, list[str]] = {}
        for item in layer:
            mine.setdefault(item.partition("=")[0].lstrip("+"), []).append(item)
        items |= mine
    return [item for each in items.values() for item in each]


def _fold_axis(space: Space, named: str | None) -> str:
    """Return the key of the folds as it stands in an override, "" for none."""
    wanted = FOLD if named is None else named
    found = [axis.key for axis in space.axes if axis.key.lstrip("+") == wanted]
    if named and not found:
        problem = f"{named} is not swept"
        raise UsageError("reading --folds", problem, f"Add {named}=0,1,2 for instance.")
    return found[0] if found else ""


# -- where its jobs can go ----------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A backend that a sweep may use, with its configuration."""

    backend: "Backend[Any]"
    config: Any
    offers: "Sequence[Offer]"


def backend_names(named: Sequence[str]) -> tuple[list[str], bool]:
    """Return the backends that are meant, and whether they are all there are."""
    words = [word.strip() for each in named for word in each.split(",")]
    words = list(dict.fromkeys(filter(None, words))) or ["local"]
    if AUTO not in words:
        return words, False
    if len(words) > 1:
        raise UsageError("reading --backend", "auto already means all backends that are set up")
    return names(), True


def sites_of(
    tracking_uri: str,
    named: Sequence[str],
    commit: Commit,
    at_once: int | None,
    file: Path | None = None,
    *,
    automatic: bool,
) -> tuple[list[Site], list[KaggleOpsError]]:
    """Return the backends that a submit has a chance with, and why others have none.

    They are configured by the commit's repository, or by a `file`. Raises UsageError if one has no
    chance that was named (`automatic` ones are left out), or its jobs are started by hand.
    """
    if file and (automatic or len(named) > 1):
        hint = "Write them into the repository's config/backend/NAME.yaml."
        raise UsageError("reading --backend-config", "it is one file for several backends", hint)
    found, problems = list[Site](), list[KaggleOpsError]()
    backends = [backend_named(name) for name in named]
    configs = [each.config_of(commit.repository, file) for each in backends]
    for backend, config in zip(backends, configs, strict=True):
        if backend.name == "local":
            config = config.with_room_for(at_once)
        try:
            _check(backend, tracking_uri, config)
            offers = backend.offers(tracking_uri, config, 0)
        except KaggleOpsError as error:
            if not automatic:
                raise
            problems.append(error)
            continue
        if offers:
            found.append(Site(backend, config, offers))
        elif not automatic:
            hint = "Take local, kaggle, colab, runpod, skypilot or docker."
            doing = f"planning jobs on {backend.name}"
            raise UsageError(doing, "its jobs are started by hand", hint)
    if not found:
        problem = "no backend is set up here that could run them"
        raise UsageError("planning the jobs", problem, "`kaggleops doctor` says what is missing.")
    return found, problems


def _check(backend: "Backend[Any]", tracking_uri: str, config: Any) -> None:
    try:
        backend.check(tracking_uri, config)
    except KaggleOpsError as error:
        # A quota that is used up, say, a sweep waits for: what is offered says so.
        if isinstance(error, UsageError):
            raise


def configs_of(sites: Sequence[Site]) -> dict[str, dict[str, Any]]:
    """Return the configurations of backends as the tag of a sweep has them."""
    return {site.backend.name: asdict(site.config) for site in sites}


def first_jobs(sweep: Sweep, sites: Sequence[Site], jobs: int) -> list[Decision]:
    """Return where the first jobs of a sweep would go now; UsageError if one could never go.

    That is: with every session free, and all of a quota there.
    """
    budget = Budget(limit=sweep.budget)
    offers = [offer for site in sites for offer in site.offers]
    at_best = [
        replace(
            offer,
            sessions=max(1, offer.sessions),
            hours=_all_hours(offer),
            problem="" if offer.refreshes else offer.problem,
        )
        for offer in offers
    ]
    now = datetime.now(UTC)
    best = place(_waiting(sweep, 1), at_best, [], budget, now)[0]
    if best.offer is None:
        hint = "Change --gpu or --memory, or add another backend."
        if "budget" in best.why:
            hint = "Raise --budget, or add a backend that costs nothing: -b kaggle,runpod."
        raise UsageError("planning the jobs", best.why.removeprefix("waits: "), hint)
    together = min(jobs, sweep.at_once or jobs)
    return place(_waiting(sweep, together), offers, [], budget, now)


def _waiting(sweep: Sweep, count: int) -> list[Waiting]:
    jobs = [Job(f"{number:06}", number, {}) for number in range(count)]
    return asked(sweep, jobs, jobs)


def _all_hours(offer: "Offer") -> float | None:
    if offer.hours is None:
        return None
    return max(offer.hours, offer.total_hours or 0.0, offer.session_hours or 0.0)
