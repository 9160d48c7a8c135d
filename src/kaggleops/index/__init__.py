"""The packed entities of a bucket in MLflow's SQL schema, kept up to date."""

from kaggleops.index.database import DatabaseError
from kaggleops.index.refreshing import Index, Refreshed

__all__ = ["DatabaseError", "Index", "Refreshed"]
