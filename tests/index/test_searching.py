"""A search of runs answers what MLflow's own does."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.index.stores import ReplicaTrackingStore
from kaggleops.mlruns import EntityStore
from tests.index.conftest import Replicated
from tests.index.corpus import fill
from tests.mlruns.corpus import allowed

__all__ = ["allowed"]


@pytest.mark.usefixtures("allowed")
def test_a_search_finds_what_mlflows_own_finds(replicated: Replicated, tmp_path: Path) -> None:
    fill(EntityStore(replicated.bucket), tmp_path / "mlruns")
    replicated.refresh()
    stock = SqlAlchemyStore(replicated.index_url, "unused")
    ours = ReplicaTrackingStore(replicated.uri)
    homes = [each.experiment_id for each in stock.search_experiments(ViewType.ALL)]
    searches: list[tuple[Any, ...]] = [
        ("", ViewType.ALL, 100, ["metrics.`by step` DESC"]),
        ("metrics.`no number` != 3", ViewType.ACTIVE_ONLY, 100, None),
        ("params.lines != 'x'", ViewType.ALL, 100, ["tags.long"]),
        ("", ViewType.ALL, 1, None),
        ("tags.nobody = 'has this'", ViewType.ALL, 100, None),
        ("", ViewType.DELETED_ONLY, 100, ["params.lines", "attributes.end_time ASC"]),
        ("attributes.run_name LIKE '%' AND attributes.status = 'FINISHED'", ViewType.ALL, 2, None),
        ("params.lines IS NULL", ViewType.ALL, 100, None),
        ("dataset.name LIKE '%'", ViewType.ALL, 100, None),
        ("dataset.context LIKE '%'", ViewType.ALL, 100, ["tags.long DESC"]),
    ]
    for search in searches:
        expected, found = (each.search_runs(homes, *search) for each in (stock, ours))
        assert list(map(picture, found)) == list(map(picture, expected)), search
        assert found.token == expected.token
    every = ours.search_runs(homes, "", ViewType.ALL)
    assert len(every) > 3
    assert {len(run.data.metrics) for run in every} > {0}
    # Elsewhere than in a search, too, a run comes with what it has logged.
    for run in every:
        found, expected = (each.get_run(run.info.run_id) for each in (ours, stock))
        assert picture(found) == picture(expected)


def picture(run: Run) -> Any:
    """Return all that there is of a run, to be compared: no two NaN are equal."""
    inputs, outputs = run.inputs.to_dictionary(), run.outputs.to_dictionary()
    data = run.data
    metrics = sorted(str(dict(each)) for each in data._metric_objs)
    return dict(run.info), metrics, data.params, data.tags, str(inputs), str(outputs)
