"""What Hydra finds: it imports this at the start of every Hydra program, so it imports nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class KaggleOpsLauncherConf:
    """The fields of `hydra.launcher`; docs/hydra.md explains each."""

    _target_: str = "hydra_plugins.kaggleops_launcher.launcher.KaggleOpsLauncher"
    backends: Any = "local"
    metric: Any = ""
    bucket: str = ""
    at_once: int | None = None
    budget: float | None = None
    entry_point: str = "main"
    name: str = ""


ConfigStore.instance().store(
    group="hydra/launcher", name="kaggleops", node=KaggleOpsLauncherConf, provider="kaggleops"
)


class KaggleOpsLauncher(Launcher):
    """Runs a batch of jobs as trials of a sweep, and returns when all have ended."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields
        self._sweep: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra tells; the program itself runs on other machines."""
        self._context, self._config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a job for each list of overrides; those that an earlier start made are found."""
        from hydra_plugins.kaggleops_launcher._sweep import HydraSweep

        if self._sweep is None:
            self._sweep = HydraSweep(KaggleOpsLauncherConf(**self._fields), self._config)
        returns: Sequence[JobReturn] = self._sweep.launch(
            self._context.config_loader, job_overrides, initial_job_idx
        )
        return returns
