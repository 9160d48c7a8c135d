"""Checks that everything a run needs is set up: one line each, with a cause and a fix.

Nobody needs all platforms: one that is not set up is skipped, with how to set it up; one that is
set up and does not work is an error.
"""

import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms import detect
from kaggleops.platforms.folders import state_folder
from kaggleops.platforms.settings import default_bucket
from kaggleops.platforms.sign_in import sign_in

if TYPE_CHECKING:
    from kaggleops.backends.colab.config import ColabConfig


Verdict = Literal["ok", "warning", "error", "skipped"]

_PACKAGES = ("kaggleops", "mlflow", "mlflow-skinny", "google-cloud-storage", "torch", "kaggle")
_WRONG_CLOCK = 60.0  # seconds; sign-ins are refused from some minutes on
_PATIENCE = 30.0
_PROXY = "Is there a proxy between here and the bucket?"


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, the verdict, what was found, and what to do."""

    about: str
    verdict: Verdict
    said: str
    hint: str = ""


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
    yield from asked("credentials", lambda: _credentials(place))
    yield from asked("bucket", lambda: _bucket(place))


def asked(about: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
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
        hint = "Commit, or run with --uncommitted."
        yield Finding("commit", "warning", f"{said}; {commit.uncommitted} files changed", hint)
    else:
        yield Finding("commit", "ok", said)
    if not commit.origin:
        hint = "Other machines get the commit through the bucket."
        yield Finding("remote", "warning", "the repository has no remote `origin`", hint)
    elif anybody_can_fetch(commit):
        yield Finding("remote", "ok", f"anybody can fetch the commit from {commit.origin}")
    else:
        problem = f"not everybody can fetch the commit from {commit.origin}"
        hint = "Push it; private code goes through the bucket instead."
        yield Finding("remote", "warning", problem, hint)


def _credentials(place: str) -> Iterator[Finding]:
    yield Finding("credentials", "ok", sign_in(detect(), place))


def _bucket(place: str) -> Iterator[Finding]:
    bucket = open_bucket(place, patience=_PATIENCE)
    key, content = f"doctor/{secrets.token_hex(8)}", b"Can this be written?"
    next(bucket.list("mlruns/", recursive=False), None)
    yield Finding("bucket", "ok", f"{bucket.uri} exists and can be listed")
    begun = time.time()
    made = bucket.write(key, content, expected=ABSENT)
    try:
        found = bucket.read(key)
        if found is None or found.data != content:
            problem = "an object that was written comes back different"
            yield Finding("reading", "error", problem, _PROXY)
        else:
            yield Finding("reading", "ok", "an object that was written can be read")
        yield _conditional(bucket, key)
        yield _clock(bucket, key, begun)
    finally:
        bucket.delete(key, expected=made)
    yield Finding("deleting", "ok", "the test object is deleted again")


def _conditional(bucket: Bucket, key: str) -> Finding:
    try:
        bucket.write(key, b"Twice?", expected=ABSENT)
    except ConflictError:
        return Finding("writing", "ok", "an existing object is not overwritten")
    problem = "an existing object was overwritten: runs would lose what others wrote"
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
    """Yield what is found about each platform.

    Args:
        folder: anywhere in the repository that says how its runs run there.
    """
    yield from asked("kaggle", _kaggle)
    yield from asked("colab", lambda: _colab(folder))
    yield from asked("runpod", _runpod)
    yield from asked("docker", _docker)


def _kaggle() -> Iterator[Finding]:
    from kaggleops.backends.finding import backend_named
    from kaggleops.platforms.kaggle import sign_in

    try:
        user = sign_in().user
    except UsageError as error:
        yield _not_set_up("kaggle", error)
        return
    quotas = list(backend_named("kaggle").quota())
    if not quotas:
        yield Finding("kaggle", "ok", f"signed in as {user}; Kaggle tells no quota")
    for quota in quotas:
        left = f"{quota.left_hours:.1f} of {quota.total_hours:.0f} h {quota.resource} are left"
        when = f" until {quota.refreshes:%Y-%m-%d %H:%M} UTC" if quota.refreshes else ""
        verdict: Verdict = "ok" if quota.left_hours > 0 else "warning"
        yield Finding("kaggle", verdict, f"signed in as {user}, {left}{when}")


def _colab(folder: Path) -> Iterator[Finding]:
    from kaggleops.backends.colab import enterprise
    from kaggleops.backends.colab.cli import ColabCli

    config = _colab_config(folder)
    if config.enterprise.project:
        enterprise.check(config)
        template = f"the template {config.enterprise.template} of {config.enterprise.project}"
        yield Finding("colab", "ok", f"Colab Enterprise has {template}")
        return
    program = shutil.which(config.cli)
    if program is None:
        hint = "To run on Colab from here: uv tool install google-colab-cli."
        yield Finding("colab", "skipped", "its command line is not installed", hint)
        return
    state = state_folder() / "colab"
    cli = ColabCli(program, config.auth, state / "home", state / "sessions.json")
    if cli.rate() is None:
        yield Finding("colab", "warning", f"{program} is not signed in", f"Once: {cli.sign_in}")
    else:
        yield Finding("colab", "ok", f"{program} is signed in")


def _colab_config(folder: Path) -> "ColabConfig":
    """Return the configuration that `kaggleops run -b colab` would take."""
    from kaggleops.backends.colab.config import ColabConfig
    from kaggleops.backends.config import read_config, read_file
    from kaggleops.git.commits import find_commit

    with suppress(UsageError):  # no repository: said elsewhere
        folder = find_commit(folder).repository
    file = folder / "config/backend/colab.yaml"
    return read_config(ColabConfig, read_file(file) if file.is_file() else {}, str(file))


def _runpod() -> Iterator[Finding]:
    from kaggleops.backends.runpod.client import RunPod

    try:
        client = RunPod()
    except UsageError as error:
        yield _not_set_up("runpod", error)
        return
    pods = len(client.pods())
    # Each costs money for as long as it is there.
    verdict: Verdict = "warning" if pods else "ok"
    yield Finding(
        "runpod", verdict, f"the API key is good; {pods} pods are there", "kaggleops reap"
    )


def _docker() -> Iterator[Finding]:
    from kaggleops.backends.docker.backend import connect, explained

    try:
        engine = connect()
    except KaggleOpsError as error:
        yield _not_set_up("docker", error)
        return
    with explained("asking the container engine"):
        version = engine.version().get("Version", "unknown")
    yield Finding("docker", "ok", f"an engine answers, version {version}")


def _not_set_up(about: str, error: KaggleOpsError) -> Finding:
    return Finding(about, "skipped", error.problem, error.hint)
