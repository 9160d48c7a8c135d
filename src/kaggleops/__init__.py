"""KaggleOps: MLflow whose tracking server is a bucket."""

from typing import TYPE_CHECKING, Any

from kaggleops.session_end import TO_BE_CONTINUED as TO_BE_CONTINUED
from kaggleops.session_end import time_left as time_left

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kaggleops.cli.compare import compare as compare
    from kaggleops.resources.local import resources as resources


def __getattr__(name: str) -> Any:
    # When it is first used: MLflow imports this package wherever it is imported itself.
    if name == "resources":
        import kaggleops.resources

        return kaggleops.resources
    if name == "compare":
        from kaggleops.cli.compare import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
