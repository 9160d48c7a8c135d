"""MLflow's tracking store and model registry over a bucket: `gs://…/mlruns`.

MLflow loads these functions, its plugins, whenever it is imported, so this module is light
and everything behind them is imported when it is first used.
"""

import atexit
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from kaggleops.tracking.registry import BucketRegistryStore
    from kaggleops.tracking.store import BucketTrackingStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> "BucketTrackingStore":
    """Return the tracking store of a bucket (MLflow's plugin group `mlflow.tracking_store`)."""
    from kaggleops.tracking.store import BucketTrackingStore

    return BucketTrackingStore(store_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> "BucketRegistryStore":
    """Return the model registry of a bucket (`mlflow.model_registry_store`)."""
    from kaggleops.tracking.registry import BucketRegistryStore

    return BucketRegistryStore(store_uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> "ArtifactRepository":
    """Return the repository of artifacts in a bucket (group `mlflow.artifact_repository`)."""
    from kaggleops.tracking.artifacts import repository

    return repository(artifact_uri, tracking_uri, registry_uri)


def refuse_location(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> NoReturn:
    """Refuse a location that is outside of the bucket in which it is written (same plugin group).

    The error is of the class for which MlflowClient skips a trace when it lists traces.
    """
    from mlflow.exceptions import MlflowException, MlflowTraceDataException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    from kaggleops.mlruns.locations import refused

    owner, leads_to = refused(artifact_uri) or ("", artifact_uri)
    problem = f"they are said to lie at {leads_to!r}, which is outside of the bucket's artifacts/"
    hint = "Copy them into the bucket, where runs keep theirs: kaggleops import does."
    message = f"opening the artifacts of {owner}: {problem}. {hint}"

    class OutsideError(MlflowTraceDataException):
        ctx = message

        def __init__(self) -> None:
            MlflowException.__init__(self, message, PERMISSION_DENIED)

    raise OutsideError


if "KAGGLE_KERNEL_INTEGRATIONS" in os.environ:
    # Here, as a training reads its data before it logs anything.
    from kaggleops.bucket.kaggle_hook import sign_gcsfs_in

    sign_gcsfs_in()


@atexit.register
def _close_sessions() -> None:
    # Exit handlers run last-registered first. MLflow imports this module before it registers its
    # own handler, which ends the active run; so that one runs first and this sends its result.
    if session := sys.modules.get("kaggleops.tracking.session"):
        session.close_all()
    if uploads := sys.modules.get("kaggleops.tracking.artifact_uploads"):
        uploads.close_all()
