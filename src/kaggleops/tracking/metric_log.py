"""A run's metric files, held open: the one call that training makes thousands of times.

The file store reads the run's `meta.yaml` and builds a path for every point (570 µs). Here a point
is one `write` to a file opened for appending: on the disk when the call returns, whatever happens
to the process afterwards.
"""

import errno
import os
from collections import OrderedDict
from pathlib import Path

from mlflow.entities import Metric
from mlflow.utils.validation import _validate_metric_name

from kaggleops.mlruns import EntityId

_MOST_OPEN = 128


class MetricLog:
    """Appends points to the metric files of one run. Not thread-safe: the caller locks.

    Args:
        entity_id: the run.
        folder: its `metrics` folder.
    """

    def __init__(self, entity_id: EntityId, folder: Path) -> None:
        self.entity_id = entity_id
        self._folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()

    def accepts(self, metric: Metric) -> bool:
        """Whether the point is valid beyond doubt: plain numbers for a metric that is open here.

        MLflow's own check, for all others, takes half as long as everything else together.
        """
        return (
            metric.key in self._files
            and type(metric.value) is float
            and type(metric.timestamp) is int
            and metric.timestamp >= 0
            and type(metric.step) is int
        )

    def append(self, metric: Metric) -> None:
        """Write one point, in the file store's own form.

        Raises:
            OSError: it could not be written, and nothing of it was.
        """
        handle = self._files.get(metric.key)
        if handle is None:
            handle = self._open(metric.key)
        # MLflow takes a step of 2.0, and its file store cannot read it back.
        line = f"{int(metric.timestamp)} {metric.value} {int(metric.step)}"
        if metric.dataset_name is not None and metric.dataset_digest is not None:
            line += f" {metric.dataset_name} {metric.dataset_digest}"
        data = f"{line}\n".encode()
        written = os.write(handle, data)
        if written < len(data):
            # The disk is full: half a point is none, and would spoil the next.
            os.ftruncate(handle, os.fstat(handle).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / metric.key))

    def close(self) -> None:
        """Close every file; the next point opens its file anew."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def _open(self, key: str) -> int:
        _validate_metric_name(key, "name")
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if len(self._files) >= _MOST_OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[key] = handle
        return handle
