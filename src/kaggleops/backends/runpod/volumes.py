"""The network volume that keeps environments and caches between pods: found, or made."""

import functools
import logging
from collections.abc import Mapping

from kaggleops.backends.runpod.answers import Volume
from kaggleops.backends.runpod.client import NO_ANSWER, RunPod, RunPodError
from kaggleops.backends.runpod.config import RunPodConfig

_log = logging.getLogger("kaggleops")

# US dollars for a GB and month, as of https://www.runpod.io/pricing (2026-10); the API tells none.
_PRICE, _PRICE_ABOVE, _ABOVE_GB = 0.07, 0.05, 1000


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
    def _there(self) -> Mapping[str, Volume]:
        if not self._config.volume:
            return {}
        found = [each for each in self._runpod.volumes() if each.name == self._config.volume]
        return {each.data_center: each for each in found if each.data_center}

    @property
    def data_centers(self) -> list[str]:
        """Where there is one."""
        return sorted(self._there)

    def bill(self, data_center: str) -> str:
        """Return what the one in a data center costs, made or to be made; "" for none."""
        if not self._config.volume:
            return ""
        there = self._there.get(data_center)
        size = (there and there.size) or self._config.volume_gb
        return f"the volume {self._config.volume} ({size} GB), {_monthly(size)}"

    def take(self, data_center: str) -> str:
        """Return the id of the one in a data center, which is made if need be; "" for none.

        Raises:
            RunPodError: RunPod makes none there, or does not answer.
        """
        if not self._config.volume:
            return ""
        if data_center not in self._there:
            name, size = self._config.volume, self._config.volume_gb
            self._made = self._create(name, data_center, size)
            where = f"the network volume {name} ({size} GB) in {data_center}"
            _log.warning("Made %s: %s, until you delete it.", where, _monthly(size))
            return self._made
        return self._there[data_center].id

    def _create(self, name: str, data_center: str, size: int) -> str:
        try:
            return self._runpod.create_volume(name, data_center, size)
        except RunPodError as error:
            # It may have been made all the same.
            for each in self._runpod.volumes() if error.status == NO_ANSWER else ():
                if (each.name, each.data_center) == (name, data_center):
                    return each.id
            raise

    def give_back(self) -> None:
        """Delete the one that was made for a pod that there is not."""
        if self._made:
            self._runpod.delete_volume(self._made)
            self._made = ""


def _monthly(size_gb: int) -> str:
    dollars = min(size_gb, _ABOVE_GB) * _PRICE + max(0, size_gb - _ABOVE_GB) * _PRICE_ABOVE
    return f"about ${dollars:.2f} a month"
