"""Checks that everything a run needs is set up: one line each, with a cause and a fix.

Nobody needs all platforms: one that is not set up is skipped, with how to set it up; one that is
set up and does not work is an error.
"""

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kaggleops.backends.interface import Finding
from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.bucket.conditions import prove
from kaggleops.bucket.location import bucket_uri, is_s3
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import DOCTOR, MLRUNS
from kaggleops.platforms import detect
from kaggleops.platforms.s3 import opened
from kaggleops.platforms.settings import default_bucket

_PACKAGES = (
    *("kaggleops", "mlflow", "mlflow-skinny", "google-cloud-storage", "boto3", "torch", "kaggle"),
)
_WRONG_CLOCK = 60.0  # seconds; sign-ins are refused from some minutes on
_PATIENCE = 30.0
_PROXY = "Is there a proxy between here and the bucket?"


def examine(named: str | None, folder: Path) -> Iterator[Finding]:
    """Check this machine and the bucket, the quick checks first.

    Args:
        named: the bucket's address; None for the default one.
        folder: a folder in the repository whose commits are to run.
    """
    yield Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}")
    yield _versions()
    yield from asked("git", lambda: _git(folder))
    yield from asked("settings", lambda: _bucket_meant(named, folder))


def _bucket_meant(named: str | None, folder: Path) -> Iterator[Finding]:
    found = named or default_bucket(folder)
    if found is None:
        hint = "Add --bucket gs://BUCKET, or write `bucket: …` into config/local.yaml."
        yield Finding("bucket", "error", "none is named", hint)
        return
    place = bucket_uri(found)
    yield from asked("credentials", lambda: [Finding("credentials", "ok", detect().sign_in(place))])
    yield from asked("bucket", lambda: _bucket(place))


def asked(about: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Run a check, and make an error of it a finding."""
    try:
        yield from look()
    except KaggleOpsError as error:
        yield Finding(about, "error", f"{error.doing}: {error.problem}", error.hint)


def _versions() -> Finding:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    said = ", ".join(f"{name} {each}" for name, each in found.items())
    if found.get("mlflow", found.get("mlflow-skinny")) != found.get("mlflow-skinny"):
        hint = f"pip install mlflow-skinny=={found['mlflow']}"
        return Finding("versions", "warning", f"{said}: MLflow's two packages differ", hint)
    return Finding("versions", "ok", said)


def _git(folder: Path) -> Iterator[Finding]:
    from kaggleops.backends.code import anybody_can_fetch
    from kaggleops.git.commits import find_commit

    commit = find_commit(folder)
    said = f"{commit.sha[:10]} {commit.subject}"
    if commit.uncommitted:
        hint = "Commit it, name it in .gitignore, or run with --uncommitted: `git status` shows it."
        yield Finding("commit", "warning", f"{said}; {commit.changes} not committed", hint)
    else:
        yield Finding("commit", "ok", said)
    if commit.origin and anybody_can_fetch(commit):
        yield Finding("remote", "ok", f"anybody can fetch the commit from {commit.origin}")
    else:
        problem = "the repository has no remote `origin`"
        if commit.origin:
            problem = f"not everybody can fetch the commit from {commit.origin}"
        hint = "Push it, or other machines get it through the bucket."
        yield Finding("remote", "warning", problem, hint)


def _bucket(place: str) -> Iterator[Finding]:
    bucket = open_bucket(place, patience=_PATIENCE)
    key, content = f"{DOCTOR}/{secrets.token_hex(8)}", b"Can this be written?"
    next(bucket.list(f"{MLRUNS}/", recursive=False), None)
    yield Finding("bucket", "ok", f"{bucket.uri} exists and can be listed")
    begun = time.time()
    made = bucket.write(key, content, expected=ABSENT)
    try:
        found = bucket.read(key)
        if found is not None and found.data == content:
            yield Finding("reading", "ok", "an object that was written can be read")
        else:
            problem = "an object that was written comes back different"
            yield Finding("reading", "error", problem, _PROXY)
        try:
            bucket.write(key, b"Twice?", expected=ABSENT)
        except ConflictError:
            yield Finding("writing", "ok", "an existing object is not overwritten")
        else:
            problem = "an existing object was overwritten: runs would lose what others wrote"
            yield Finding("writing", "error", problem, _PROXY)
        if is_s3(place):
            yield from asked("conditions", lambda: _conditions(place))
        yield _clock(bucket, key, begun)
    finally:
        bucket.delete(key, expected=made)
    yield Finding("deleting", "ok", "the test object is deleted again")


def _conditions(place: str) -> Iterator[Finding]:
    bucket = opened(place)
    found = prove(bucket)
    said = f"{bucket.service} honours conditional writes"
    lacks = []
    if not found.multipart:
        lacks.append("but not in parts: a file of more than 16 MB goes up in one request")
    if not found.delete:
        lacks.append("but not conditional deletes: what is written just then is deleted, too")
    yield Finding("conditions", "warning" if lacks else "ok", "; ".join([said, *lacks]))


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


def examine_platforms(folder: Path) -> Iterator[Finding]:
    """Yield what is found about each backend, as the repository around a folder configures it.

    One that is not set up is skipped, with what sets it up; one that is set up and does not work is
    an error.
    """
    from kaggleops.backends.lookup import backend_named, names
    from kaggleops.git.commits import find_commit

    def backend(name: str) -> Iterator[Finding]:
        found = backend_named(name)
        yield from found.examine(found.config_of(folder))

    with suppress(UsageError):  # no repository: said elsewhere
        folder = find_commit(folder).repository
    for name in names():
        yield from asked(name, partial(backend, name))
