"""What `mlflow run` hands to a backend, in our terms."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow

from kaggleops.bucket.location import is_bucket
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import fetch
from kaggleops.git.commits import Commit, find_commit
from kaggleops.launch.launcher import Launch, temporary_folder
from kaggleops.launch.overrides import OVERRIDES, Overrides


@contextmanager
def project(uri: str, version: str | None) -> Iterator[Commit]:
    """Yield the commit of a project, in a repository that is on this machine meanwhile.

    Args:
        uri: a folder of a repository here, or a repository's address.
        version: a commit, branch or tag; what is checked out, or the newest, by default.

    Raises:
        UsageError: there is no such repository or commit, or a folder within it is meant.
    """
    if "#" in uri:
        raise UsageError(f"running {uri}", "a project has to be its repository's top folder")
    if Path(uri).is_dir():
        yield find_commit(Path(uri), version)
        return
    with temporary_folder() as folder:
        yield fetch(uri, version or "HEAD", folder / "project")


def launch_of(
    tracking_uri: str, entry_point: str, params: Mapping[str, str], experiment_id: str
) -> Launch:
    """Return what to launch.

    Raises:
        UsageError: the parameter `overrides` is not quoted as for a shell, or runs do not go to a
            bucket.
    """
    if not is_bucket(tracking_uri):
        hint = "Set MLFLOW_TRACKING_URI to gs://BUCKET/mlruns."
        raise UsageError("choosing the bucket", f"{tracking_uri} is none", hint)
    items = [f"{key}={value}" for key, value in params.items() if key != OVERRIDES]
    try:
        items += shlex.split(params.get(OVERRIDES, ""))
    except ValueError as error:
        raise UsageError(f"reading the parameter {OVERRIDES}", str(error)) from None
    name = mlflow.MlflowClient(tracking_uri).get_experiment(experiment_id).name
    return Launch(tracking_uri, Overrides(items, None), entry_point, experiment=name)
