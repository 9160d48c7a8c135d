"""MLflow's stores over the index of a bucket: `kaggleops+sqlite:////folder/index.db`.

They read from the index, and what is written goes to the bucket first and then to the index. The
bucket's address stands in the index itself. MLflow loads these functions, its plugins, whenever it
is imported, so everything behind them is imported when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggleops.index.stores import ReplicaRegistryStore, ReplicaTrackingStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> "ReplicaTrackingStore":
    """Return the tracking store over the index at `kaggleops+` and an address of SQLAlchemy's."""
    # artifact_uri is MLflow's to pass: artifacts lie beside `mlruns`, in the bucket.
    from kaggleops.index.stores import ReplicaTrackingStore

    return ReplicaTrackingStore(store_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> "ReplicaRegistryStore":
    """Return the model registry over an index; registry and runs share one."""
    from kaggleops.index.stores import ReplicaRegistryStore

    return ReplicaRegistryStore(store_uri)
