"""The network volume that keeps environments and caches between pods: found, or made."""

import functools
import logging
from collections.abc import Mapping

from kaggleops.backends.runpod.client import RunPod
from kaggleops.backends.runpod.config import RunPodConfig

_log = logging.getLogger("kaggleops")


class Volumes:
    """The volumes of the name that is wanted, by data center.

    Args:
        runpod: the account.
        config: what is wanted.
    """

    def __init__(self, runpod: RunPod, config: RunPodConfig) -> None:
        self._runpod = runpod
        self._config = config
        self._made = ""

    @functools.cached_property
    def _there(self) -> Mapping[str, str]:
        if not self._config.volume:
            return {}
        found = [each for each in self._runpod.volumes() if each["name"] == self._config.volume]
        return {each["dataCenter"]: each["id"] for each in found}

    @property
    def data_centers(self) -> list[str]:
        """Where there is one."""
        return sorted(self._there)

    def take(self, data_center: str) -> str:
        """Return the id of the one in a data center, which is made if need be; "" for none.

        Raises:
            RunPodError: RunPod makes none there, or does not answer.
        """
        if not self._config.volume:
            return ""
        if data_center not in self._there:
            name, size = self._config.volume, self._config.volume_gb
            self._made = self._runpod.create_volume(name, data_center, size)["id"]
            where = f"the network volume {name} ({size} GB) in {data_center}"
            _log.warning("Made %s: RunPod bills it until you delete it.", where)
            return self._made
        return self._there[data_center]

    def give_back(self) -> None:
        """Delete the one that was made for a pod that there is not."""
        if self._made:
            self._runpod.delete_volume(self._made)
            self._made = ""
