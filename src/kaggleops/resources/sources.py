"""From an entry of the manifest to where its files come from: each kind of source, by its address.

A run's artifacts are a source, too: of one run, or of the best of an experiment and a commit.
"""

from pathlib import Path
from typing import Any

from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import UsageError
from kaggleops.platforms.settings import default_bucket
from kaggleops.resources.addresses import InBucket, OfRun, OnKaggle, OnTheWeb
from kaggleops.resources.bucket import BucketOrigin
from kaggleops.resources.manifest import Resource
from kaggleops.resources.origins import GoneError, Origin


def origin_of(resource: Resource, project: Path, locked: str = "") -> Origin:
    """Return where a resource comes from; KaggleOpsError if there is no such place.

    The settings of the `project`'s folder name the bucket of its runs. `locked` is the run that was
    the best when it was locked (`Locked.origin`); "" to look anew.
    """
    # Each kind is imported only where it is used: none needs what the others do.
    match resource.address:
        case InBucket(uri):
            return BucketOrigin(uri)
        case OnKaggle():
            from kaggleops.resources.kaggle import KaggleOrigin

            return KaggleOrigin(resource.address)
        case OnTheWeb(url):
            from kaggleops.resources.web import WebOrigin

            return WebOrigin(url, resource.checksum, resource.token)
        case OfRun():
            bucket = default_bucket(project)
            if bucket is None:
                hint = "Write `bucket: gs://BUCKET` into config/local.yaml."
                raise UsageError(f"looking for {resource.source}", "no bucket is named", hint)
            return _artifacts_of(resource, resource.address, bucket, locked)


def _artifacts_of(resource: Resource, address: OfRun, bucket: str, locked: str) -> Origin:
    """Return where the artifacts of a run in a bucket lie."""
    # Not at the top: MLflow takes a second to import.
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri(bucket))
    doing = f"looking for {resource.source}"
    best = address.run == OfRun.BEST
    run_id = locked or (_best(client, resource, doing) if best else address.run)
    try:
        artifacts: str = client.get_run(run_id).info.artifact_uri
    except MlflowException as error:
        hint = "`kaggleops status` lists the last runs."
        raise GoneError(doing, f"there is no run {run_id}", hint) from error
    there = open_bucket(bucket)
    inside = artifacts.removeprefix(f"{there.artifact_uri}/")
    if inside == artifacts:
        raise UsageError(doing, f"its artifacts are at {artifacts}", "Use a run of the bucket.")
    origin = BucketOrigin(there.uri, f"{inside}/{address.path}".rstrip("/"))
    origin.name = run_id if best else ""
    return origin


def _best(client: Any, resource: Resource, doing: str) -> str:
    """Return the id of the run that the entry means."""
    experiment = client.get_experiment_by_name(resource.experiment)
    if experiment is None:
        problem = f"there is no experiment {resource.experiment!r}"
        raise UsageError(doing, problem, "Check `experiment` in the manifest.")
    conditions = ["attributes.status = 'FINISHED'"]
    if resource.commit:
        conditions.append(f"tags.`mlflow.source.git.commit` LIKE '{resource.commit}%'")
    order = "ASC" if resource.lower_is_better else "DESC"
    found = client.search_runs(
        [experiment.experiment_id],
        filter_string=" AND ".join(conditions),
        order_by=[f"metrics.`{resource.metric}` {order}"],
        max_results=1,
    )
    if not found or resource.metric not in found[0].data.metrics:
        where = f" of commit {resource.commit}" if resource.commit else ""
        problem = f"no finished run of {resource.experiment}{where} has {resource.metric}"
        raise UsageError(doing, problem, "Check `commit` and `metric` in the manifest.")
    run_id: str = found[0].info.run_id
    return run_id
