"""The data manifest: the files that a project reads and does not hold itself.

`kaggleops.resources("experiment1")["oof.parquet"]` is the path of a file that is what it should be.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaggleops.resources.local import LocalResource


class _CallableModule(ModuleType):
    # So that the room and the function that people call have one name.
    def __call__(self, name: str) -> "LocalResource":
        """Return a resource of the project around the working directory (reading.py)."""
        from kaggleops.resources.local import resources

        return resources(name)


sys.modules[__name__].__class__ = _CallableModule
