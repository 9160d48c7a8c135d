"""Which platforms this machine may send runs to: nobody needs all of them.

One that is not set up is passed over, with what sets it up; one that is set up and does not work is
an error.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import state_folder
from kaggleops.reports.doctor import Finding, Verdict, asked

if TYPE_CHECKING:
    from kaggleops.backends.colab.config import ColabConfig


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
    from kaggleops.backends.docker.engine import connect, explained

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
