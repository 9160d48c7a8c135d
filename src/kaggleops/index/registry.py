"""The model registry over an index: MLflow's own, whose writes go to the bucket first."""

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from kaggleops.index.write_through import WriteThrough, index_url, replica_of, write_through
from kaggleops.tracking.base import mlflow_errors
from kaggleops.tracking.unsupported import UnsupportedRegistry

_WRITES = """
    create_registered_model update_registered_model rename_registered_model
    delete_registered_model set_registered_model_tag delete_registered_model_tag
    set_registered_model_alias delete_registered_model_alias
    create_model_version update_model_version transition_model_version_stage
    delete_model_version set_model_version_tag delete_model_version_tag
"""

_READS = (
    "get_",
    "list_",
    "search_",
    # What calls the methods above:
    "copy_model_version",
    "create_prompt",
    "delete_prompt",
    "link_prompt",
    "set_prompt",
)


@replica_of(UnsupportedRegistry, "registry", _WRITES, _READS)
class ReplicaRegistryStore(SqlAlchemyStore):
    """MLflow's model registry over an index.

    Args:
        store_uri: as for the tracking store.
    """

    def __init__(self, store_uri: str) -> None:
        with mlflow_errors():
            self.through: WriteThrough = write_through(index_url(store_uri))
        super().__init__(index_url(store_uri))

    def _initialize_store_state(self) -> None:
        """As in the tracking store: nothing is made that is in no bucket."""
