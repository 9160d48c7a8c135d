"""MLflow's own migrations, in a transaction of the caller's; it takes seconds to import this."""

import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db import utils as mlflow_db
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase


def are_over(connection: sa.Connection) -> bool:
    """Return whether MLflow's tables are where its newest migration has them."""
    script = ScriptDirectory.from_config(mlflow_db._get_alembic_config(""))
    current = MigrationContext.configure(connection).get_current_heads()
    return set(current) == set(script.get_heads())


def migrate(connection: sa.Connection) -> None:
    """Bring MLflow's tables to where its newest migration has them."""
    if are_over(connection):
        return
    # Not MLflow's own function, which opens connections, and so transactions, of its own.
    config = mlflow_db._get_alembic_config("")
    script = ScriptDirectory.from_config(config)
    if not MigrationContext.configure(connection).get_current_heads():
        InitialBase.metadata.create_all(connection)
    with EnvironmentContext(
        config, script, fn=lambda revision, _: script._upgrade_revs("heads", revision)
    ) as environment:
        environment.configure(
            connection=connection, target_metadata=Base.metadata, render_as_batch=True
        )
        environment.run_migrations()
