"""What other writers of an `mlruns` leave, in the form in which MLflow writes it today.

MLflow's file store reads more than it writes: lines of metrics that end as Windows' do, or with no
end, numbers in other spellings, a `meta.yaml` without fields that came later. A file that was
copied through an editor, an archive or another system, or written by MLflow 0.x, has that. What
the file store would not read stays as it is, and is refused by checking.py.

A run of stock MLflow has its commit in a tag that MLflow's UI can neither group by nor link: it
gets the plain tags and the description of a run that was made here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_REPO_URL

from kaggleops.mlruns.checking import holds_points
from kaggleops.mlruns.entity import META, BrokenEntityError, Entity, dump_yaml
from kaggleops.mlruns.layout import MLRUNS, Kind
from kaggleops.mlruns.rebasing import artifact_path
from kaggleops.project.description import END, Origins, commit_tags, with_note
from kaggleops.tags import BRANCH, NOTE, SHORT_COMMIT

_METRICS = "metrics/"
_FIELDS = {Kind.RUN: (2, 3, 5), Kind.LOGGED_MODEL: (4, 6)}
"""How many fields a line of a metric has, by what it is a metric of."""


def modernized(entity: Entity) -> Entity:
    """Return an entity as MLflow would write it now: itself, where it is that already."""
    changed: dict[str, bytes] = {}
    if entity.id.kind in _FIELDS:
        for path, data in entity.files.items():
            if path.startswith(_METRICS) and not holds_points(entity.id.kind, data):
                changed[path] = _points(data, _FIELDS[entity.id.kind])
    if META in entity.files:
        changed[META] = _meta(entity)
    changed = {path: data for path, data in changed.items() if data != entity.files[path]}
    return replace(entity, files={**entity.files, **changed}) if changed else entity


def with_commit(run: Entity) -> Entity:
    """Return a run with plain tags and a description that say which commit it is of.

    What it has of these already stays. The repository's address loses what it carries of
    credentials.
    """
    if run.id.kind is not Kind.RUN:
        return run
    tags = {
        path.removeprefix("tags/"): data.decode(errors="replace")
        for path, data in run.files.items()
        if path.startswith("tags/")
    }
    # MLflow 0.x kept it in the run's own file.
    sha = tags.get(MLFLOW_GIT_COMMIT, "").strip() or str(run.meta.get("source_version") or "")
    new = commit_tags({**tags, MLFLOW_GIT_COMMIT: sha})
    note = tags.get(NOTE, "")
    if SHORT_COMMIT in new:
        new[MLFLOW_GIT_COMMIT] = sha
        if END not in note:
            origin = {**tags, **new}.get(MLFLOW_GIT_REPO_URL, "")
            origins = Origins(sha, new.get(BRANCH, ""), origin)
            new[NOTE] = with_note(origins.describe(), note)
    files = {f"tags/{tag}": value.encode() for tag, value in new.items()}
    return replace(run, files={**run.files, **files})


def _points(data: bytes, fields: tuple[int, ...]) -> bytes:
    """Return a metric's file with each point as MLflow writes it; unchanged, if one is none."""
    try:
        lines = data.decode().splitlines()
        return "".join(_point(line, fields) for line in lines if line.strip()).encode()
    except ValueError:
        return data


def _point(line: str, fields: tuple[int, ...]) -> str:
    parts = line.strip().split(" ")
    if len(parts) not in fields:
        raise ValueError(line)
    # In the spelling that is there, unless only Python understands it (as 1_000).
    parts[0] = _number(parts[0], int)
    parts[1] = _number(parts[1], float)
    if len(parts) > 2:
        parts[2] = _number(parts[2], int)
    return " ".join(parts) + "\n"


def _number(text: str, kind: type) -> str:
    value = kind(text)
    plain = text.isascii() and "_" not in text and not (kind is int and text.startswith("+"))
    return text if plain else str(value)


def _meta(entity: Entity) -> bytes:
    try:
        meta = entity.meta
    except BrokenEntityError:
        return entity.files[META]
    new = {**meta, **_lacking(entity, meta)}
    return entity.files[META] if new == meta else dump_yaml(new)


def _lacking(entity: Entity, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a `meta.yaml` of an older MLflow has no or another word for."""
    if entity.id.kind is Kind.EXPERIMENT:
        return {} if "lifecycle_stage" in meta else {"lifecycle_stage": "active"}
    if entity.id.kind is not Kind.RUN:
        return {}
    found: dict[str, Any] = {}
    if "run_id" not in meta and "run_uuid" in meta:
        found["run_id"] = meta["run_uuid"]
    if "end_time" not in meta:
        found["end_time"] = None
    if not isinstance(meta.get("artifact_uri"), str):
        found["artifact_uri"] = MLRUNS + artifact_path(entity.id)
    return found
