"""The packed entities of a bucket in MLflow's SQL schema, kept up to date."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaggleops.index.database import DatabaseError
    from kaggleops.index.refreshing import Index, Refreshed

__all__ = ["DatabaseError", "Index", "Refreshed"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: a part of this package runs without MLflow (worker.py).
    if name == "DatabaseError":
        from kaggleops.index.database import DatabaseError

        return DatabaseError
    if name in __all__:
        from kaggleops.index import refreshing

        return getattr(refreshing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
