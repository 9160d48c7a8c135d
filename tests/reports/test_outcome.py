"""What a run's page says of what it came to."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from kaggleops.mlruns.ui import described
from kaggleops.reports.outcome import tell_outcome
from kaggleops.tags import COMMIT, NOTE, PREVIOUS


@pytest.mark.parametrize(("before", "now"), [(math.nan, 0.5), (0.5, math.inf)])
def test_nothing_is_better_or_worse_than_what_is_no_number(
    tmp_path: Path, before: float, now: float
) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    (tmp_path / "bucket").mkdir()
    client = MlflowClient(uri, uri)
    home = client.create_experiment("e")
    ids: list[str] = []
    for score in (before, now):
        tags = {COMMIT: "a" * 40} | ({PREVIOUS: ids[0]} if ids else {})
        run = client.create_run(home, tags={**tags, NOTE: described(tags)})
        client.log_metric(run.info.run_id, "f1", score)
        client.set_terminated(run.info.run_id)
        ids.append(run.info.run_id)
    tell_outcome(uri, client.get_run(ids[1]))
    note = client.get_run(ids[1]).data.tags[NOTE]
    assert "**. Since [the run before]" in note
    assert "than [the run before" not in note
