"""A run's metric files, held open: the one call that training makes thousands of times.

The file store reads the run's `meta.yaml` and builds a path for every point (570 µs). Here a point
is one `write` to a file opened for appending: on the disk when the call returns, whatever happens
to the process afterwards.

A point is a time, a value and a step, as in MLflow's SQL store: one that is logged again is there
already. (A run's metrics have no dataset there, either; the file store writes one, and then reads
the step as 0.)
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mlflow.entities import Metric

from kaggleops.mlruns import EntityId

_MOST_OPEN = 128
_LARGEST = 2**63


class MetricLog:
    """Appends points to the metric files of one run. Not thread-safe: the caller locks.

    A run that goes on from a checkpoint makes some steps again that an earlier leg of it has made.
    Of the keys in `earlier`, what was logged then is not logged once more: a value at a step.
    """

    def __init__(
        self,
        entity_id: EntityId,
        path_of: Callable[[str], Path],
        earlier: "Earlier | None" = None,
    ) -> None:
        self.entity_id = entity_id
        self._path_of = path_of
        self._earlier = earlier
        self._files: OrderedDict[str, int] = OrderedDict()
        self._last: dict[str, bytes] = {}

    def accepts(self, metric: Metric) -> bool:
        """Whether the point is valid beyond doubt: plain numbers for a metric that is open here.

        MLflow's own check, for all others, takes half as long as everything else together.
        """
        return (
            metric.key in self._files
            and type(metric.value) is float
            and type(timestamp := metric.timestamp) is int
            and 0 <= timestamp < _LARGEST
            and type(step := metric.step) is int
            and -_LARGEST <= step < _LARGEST
        )

    def append(self, metric: Metric) -> None:
        """Write one point, in the file store's own form; an OSError leaves nothing of it."""
        key = metric.key  # a property, as all of a point: each look is a call
        handle = self._files.get(key)
        if handle is None:
            handle = self._open(key)
        data = line_of(metric)
        if data == self._last.get(key):
            return
        if self._earlier is not None and self._made_before(key, data):
            return
        written = os.write(handle, data)
        if written < len(data):
            # The disk is full: half a point is none, and would spoil the next.
            os.ftruncate(handle, os.fstat(handle).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)
        self._last[key] = data

    def _made_before(self, key: str, data: bytes) -> bool:
        assert self._earlier is not None  # noqa: S101 - for mypy
        if key not in self._earlier:  # so whatever the file has is of an earlier leg
            self._earlier[key] = _one_at_each_step(self._path_of(key).read_bytes(), data)
        return data.partition(b" ")[2] in self._earlier[key]

    def lacking(self, metrics: Iterable[Metric]) -> Iterator[Metric]:
        """Yield those points that are not here.

        MLflow logs the history of a step again with each model that is logged at it.
        """
        here: dict[str, set[bytes]] = {}
        for metric in metrics:
            if metric.key not in here:
                path = self._path_of(metric.key)
                data = path.read_bytes() if path.is_file() else b""
                here[metric.key] = set(data.splitlines(keepends=True))
            if (line := line_of(metric)) not in here[metric.key]:
                here[metric.key].add(line)
                yield metric

    def close(self) -> None:
        """Close every file; the next point opens its file anew."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()
        self._last.clear()

    def _open(self, key: str) -> int:
        path = self._path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if len(self._files) >= _MOST_OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[key] = handle
        return handle


Earlier = dict[str, frozenset[bytes]]
"""The values and steps that earlier legs of a run logged, by key."""


def _one_at_each_step(points: bytes, first: bytes) -> frozenset[bytes]:
    """Return the values and steps of points from the step of the `first` new one on.

    None of a metric that has several at a step: it is logged without steps, and equal values mean
    nothing.
    """
    begin = int(first.split()[2])
    found: dict[int, bytes] = {}
    for line in points.splitlines(keepends=True):
        parts = line.split()
        if len(parts) < 3:
            continue
        step = int(parts[2])
        if step in found:
            return frozenset()
        found[step] = line.partition(b" ")[2]
    return frozenset(tail for step, tail in found.items() if step >= begin)


def line_of(metric: Metric) -> bytes:
    """Return a point in the file store's own form."""
    # MLflow takes a step of 2.0 and a fraction for a value; its file store cannot read them back.
    return b"%d %a %d\n" % (metric.timestamp, float(metric.value), metric.step)


def read_points(file: Path, run_id: str, key: str) -> list[Metric]:
    """Return the points of a metric file, each once; ValueError for an empty one or none."""
    points: dict[tuple[bytes, ...], Metric] = {}
    for line in file.read_bytes().splitlines():
        # Old MLflow wrote no step; a dataset's name and digest may follow it.
        at = time, value, step = (*line.split(), b"0")[:3]
        if at not in points:
            points[at] = Metric(key, float(value), int(time), int(step), run_id=run_id)
    if not points:
        raise ValueError(f"Metric {key!r} is malformed. No data found.")
    return list(points.values())
