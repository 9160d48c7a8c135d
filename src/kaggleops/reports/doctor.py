"""Whether everything that a run needs is there: one line each, with a cause and a way out."""

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kaggleops.backends.interface import Finding
from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms import detect
from kaggleops.platforms.settings import default_bucket

_PACKAGES = ("kaggleops", "mlflow", "mlflow-skinny", "google-cloud-storage", "torch", "kaggle")
_WRONG_CLOCK = 60.0  # seconds; sign-ins are refused from some minutes on
_PATIENCE = 30.0
_PROXY = "Is there a proxy between here and the bucket?"


def examine(named: str | None, folder: Path) -> Iterator[Finding]:
    """Yield what is found, the quick looks first.

    Args:
        named: the bucket's address; None for the one that is meant where none is named.
        folder: anywhere in the repository whose commits are to run.
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
    yield from asked("credentials", lambda: _credentials(place))
    yield from asked("bucket", lambda: _bucket(place))


def asked(about: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a look finds; where it fails in a way that users understand, that."""
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
        return Finding("versions", "warning", f"{said}: the two of MLflow differ", hint)
    return Finding("versions", "ok", said)


def _git(folder: Path) -> Iterator[Finding]:
    from kaggleops.backends.code import anybody_can_fetch
    from kaggleops.git.commits import find_commit

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
    elif anybody_can_fetch(commit):
        yield Finding("remote", "ok", f"anybody can fetch the commit from {commit.origin}")
    else:
        problem = f"not everybody can fetch the commit from {commit.origin}"
        hint = "Push it; a private one travels through the bucket."
        yield Finding("remote", "warning", problem, hint)


def _credentials(place: str) -> Iterator[Finding]:
    yield Finding("credentials", "ok", detect().sign_in(place))


def _bucket(place: str) -> Iterator[Finding]:
    bucket = open_bucket(place, patience=_PATIENCE)
    key, content = f"doctor/{secrets.token_hex(8)}", b"Can this be written?"
    next(bucket.list("mlruns/", recursive=False), None)
    yield Finding("bucket", "ok", f"{bucket.uri} is there and can be listed")
    begun = time.time()
    made = bucket.write(key, content, expected=ABSENT)
    try:
        found = bucket.read(key)
        if found is None or found.data != content:
            problem = "what was written comes back as something else"
            yield Finding("reading", "error", problem, _PROXY)
        else:
            yield Finding("reading", "ok", "what was written can be read")
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
    return Finding("writing", "error", problem, _PROXY)


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
    """Yield what is found about each backend: nobody needs all of them.

    One that is not set up is skipped, with what sets it up; one that is set up and does not work is
    an error.

    Args:
        folder: anywhere in the repository that says how its runs run there.
    """
    from kaggleops.backends.lookup import names
    from kaggleops.git.commits import find_commit

    with suppress(UsageError):  # no repository: said elsewhere
        folder = find_commit(folder).repository
    for name in names():
        yield from asked(name, partial(_backend, name, folder))


def _backend(name: str, folder: Path) -> Iterator[Finding]:
    """Examine a backend with the configuration that `kaggleops run -b` would take."""
    from kaggleops.backends.config import read_file
    from kaggleops.backends.lookup import backend_named

    backend = backend_named(name)
    file = folder / "config/backend" / f"{name}.yaml"
    config = backend.read_config(read_file(file) if file.is_file() else {}, str(file))
    yield from backend.examine(config)
