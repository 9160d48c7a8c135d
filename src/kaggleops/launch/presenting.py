"""What the page of a run says when it begins: what it is, and what changed since the run before."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress

import mlflow
from mlflow.entities import Run, RunTag

from kaggleops.bucket import ObjectNotFoundError
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import BrokenEntityError, EntityStore, ui
from kaggleops.mlruns.liveness import last_written, state_of
from kaggleops.mlruns.ui import END, Before
from kaggleops.tags import (
    BRANCH,
    COMMIT,
    ENTRY_POINT,
    NOTE,
    PARENT,
    PREVIOUS,
    SETTINGS,
    SWEEP,
    UNCOMMITTED,
)

NOTEBOOK = "KAGGLEOPS_NOTEBOOK_URL"
"""The environment variable in which whoever starts a notebook or a machine says where it is."""

_LOOKED_AT = 10  # runs, for the one before on the same branch, with the same settings


def present(
    run: Run,
    store: EntityStore,
    notebook: str = "",
    now: Mapping[str, str] | None = None,
) -> None:
    """Say at the top of a run's page what it is, and what changed since the run before.

    A run that has a description already, because it was submitted or is continued, keeps it but for
    what it says of the machine. `notebook` is the address of the notebook that it is going to run
    in, by default this one's; `now` are tags that it has got since. Costs one listing of the
    experiment's runs and reading ten of them at most, to find the one before.
    """
    client = mlflow.MlflowClient(tracking_uri(store.bucket.uri))
    home, run_id = run.info.experiment_id, run.info.run_id
    tags = {**run.data.tags, **(now or {})}
    if END in (note := tags.get(NOTE, "")):
        if (told := ui.with_sentences(note, tags)) != note:
            client.set_tag(run_id, NOTE, told)
        return
    before = _before(tags, home, run_id, store)
    below = run.info.artifact_uri.removeprefix(store.bucket.artifact_uri)
    note = ui.described(
        tags,
        ui.since(tags, home, run_id, before),
        notebook or os.environ.get(NOTEBOOK, ""),
        store.bucket.uri + below,
    )
    new = {NOTE: note} | ({PREVIOUS: before.run_id} if before else {})
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in new.items()])


def _before(tags: Mapping[str, str], home: str, run_id: str, store: EntityStore) -> Before | None:
    """Return the run before, on the same branch: with the same settings, if there is one.

    One that failed or was cancelled has nothing to be set beside: it is that if no other is there.
    """
    others: dict[bool, Before] = {}  # the latest of each, by whether it came to nothing
    with suppress(KaggleOpsError):  # it is only a help to the reader
        listed = last_written(store, home)
        for each in [each for each in listed if each.name != run_id][:_LOOKED_AT]:
            found: Mapping[str, str] = {}
            status = ""
            with suppress(BrokenEntityError, ObjectNotFoundError):
                stored = store.read(each)
                told = state_of(stored.entity, stored.version, 0, 0)
                found, status = told.tags, told.status
            alike = all(found.get(name) == tags.get(name) for name in (BRANCH, ENTRY_POINT))
            whole = PARENT not in found and (SWEEP in found) == (SWEEP in tags)
            # What was changed beside a commit is none of what changed since that commit.
            whole = whole and (UNCOMMITTED not in found or UNCOMMITTED in tags)
            if not (alike and whole and re.fullmatch("[0-9a-f]{40,64}", found.get(COMMIT, ""))):
                continue
            came_to_nothing = status in ("FAILED", "KILLED")
            if found.get(SETTINGS) == tags.get(SETTINGS) and not came_to_nothing:
                return Before(each.name, found)
            others.setdefault(came_to_nothing, Before(each.name, found))
    return others.get(False) or others.get(True)
