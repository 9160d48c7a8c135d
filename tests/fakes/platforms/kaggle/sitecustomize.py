"""Stands before `google.cloud.storage` in every process, as the hook of Kaggle's image does.

Read in Kaggle/docker-python, patches/sitecustomize.py: a finder answers for the name with what
`kaggle_gcp` makes of it, unless it is `kaggle_gcp` that asks.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import PurePath
from types import ModuleType


class GcpModuleFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "google.cloud.storage" or _asked_by_kaggle_gcp():
            return None
        return ModuleSpec(fullname, GcpModuleLoader())


class GcpModuleLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        import kaggle_gcp

        return kaggle_gcp.init_gcs()

    def exec_module(self, module: ModuleType) -> None:
        pass


def _asked_by_kaggle_gcp() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if PurePath(frame.f_code.co_filename).name == "kaggle_gcp.py":
            return True
        frame = frame.f_back
    return False


sys.meta_path.insert(0, GcpModuleFinder())
