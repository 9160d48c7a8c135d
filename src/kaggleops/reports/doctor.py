"""Whether everything that a run needs is there: one line each, with a cause and a way out."""

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.errors import KaggleOpsError

Verdict = Literal["ok", "warning", "error", "skipped"]

_PACKAGES = ("kaggleops", "mlflow", "mlflow-skinny", "google-cloud-storage", "torch", "kaggle")
_WRONG_CLOCK = 60.0  # seconds; sign-ins are refused from some minutes on
_PATIENCE = 30.0


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Args:
        about: what was looked at.
        verdict: how it is.
        said: what was found, or what is wrong.
        hint: what to do about it.
    """

    about: str
    verdict: Verdict
    said: str
    hint: str = ""


def examine(place: str | None, folder: Path) -> Iterator[Finding]:
    """Yield what is found, the quick looks first.

    Args:
        place: the bucket's address; None where none is named.
        folder: anywhere in the repository whose commits are to run.
    """
    yield _python()
    yield from _asked("git", lambda: _git(folder))
    if place is None:
        hint = "Add --bucket gs://BUCKET, or write `bucket: …` into config/local.yaml."
        yield Finding("bucket", "warning", "none is named", hint)
    else:
        yield from _asked("bucket", lambda: _bucket(place))
    yield from _asked("kaggle", _kaggle)


def _asked(about: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except KaggleOpsError as error:
        yield Finding(about, "error", f"{error.doing}: {error.problem}", error.hint)


def _python() -> Finding:
    found = [f"Python {sys.version.split()[0]}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Finding("versions", "ok", ", ".join(found))


def _git(folder: Path) -> Iterator[Finding]:
    from kaggleops.project.git import can_fetch, find_commit

    commit = find_commit(folder)
    said = f"{commit.sha[:10]} {commit.subject}"
    if commit.uncommitted:
        hint = "Commit, or run with --uncommitted."
        yield Finding("commit", "warning", f"{said}; {commit.uncommitted} files changed", hint)
    else:
        yield Finding("commit", "ok", said)
    if not commit.origin:
        hint = "Runs elsewhere get the commit through the bucket."
        yield Finding("remote", "warning", "the repository has no remote `origin`", hint)
    elif can_fetch(commit.origin, commit.sha):
        yield Finding("remote", "ok", f"anybody can fetch the commit from {commit.origin}")
    else:
        problem = f"not everybody can fetch the commit from {commit.origin}"
        hint = "Push it; a private one travels through the bucket."
        yield Finding("remote", "warning", problem, hint)


def _bucket(place: str) -> Iterator[Finding]:
    bucket = open_bucket(place, patience=_PATIENCE)
    key = f"doctor/{secrets.token_hex(8)}"
    list(bucket.list("mlruns/", recursive=False))
    yield Finding("bucket", "ok", f"{bucket.uri} can be listed and read")
    begun = time.time()
    made = bucket.write(key, b"Can this be written?", expected=ABSENT)
    try:
        yield _conditional(bucket, key)
        yield _clock(bucket, key, begun)
    finally:
        bucket.delete(key, expected=made)
    yield Finding("deleting", "ok", "what was written for this is deleted again")


def _conditional(bucket: Bucket, key: str) -> Finding:
    try:
        bucket.write(key, b"Twice?", expected=ABSENT)
    except ConflictError:
        return Finding("writing", "ok", "what somebody else has written is not overwritten")
    problem = "an object was overwritten although it was there: runs would lose what others wrote"
    return Finding("writing", "error", problem, "Is there a proxy between here and the bucket?")


def _clock(bucket: Bucket, key: str, begun: float) -> Finding:
    entry = bucket.stat(key)
    if entry is None:
        return Finding("clock", "skipped", "the object is gone already")
    ahead = begun - entry.updated_ms / 1000
    if abs(ahead) > _WRONG_CLOCK:
        which = "ahead of" if ahead > 0 else "behind"
        problem = f"this machine's clock is {abs(ahead):.0f} s {which} the bucket's"
        return Finding("clock", "warning", problem, "Set it: signing in may be refused.")
    return Finding("clock", "ok", "agrees with the bucket's")


def _kaggle() -> Iterator[Finding]:
    from kaggleops.backends.finding import backend_named

    if find_spec("kaggle") is None:
        hint = "To run on Kaggle from here: pip install 'kaggleops[kaggle]'."
        yield Finding("kaggle", "skipped", "its client is not installed", hint)
        return
    for quota in backend_named("kaggle").quota():
        left = f"{quota.left_hours:.1f} of {quota.total_hours:.0f} h {quota.resource} are left"
        when = f" until {quota.refreshes:%Y-%m-%d %H:%M} UTC" if quota.refreshes else ""
        verdict: Verdict = "ok" if quota.left_hours > 0 else "warning"
        yield Finding("kaggle", verdict, left + when)
