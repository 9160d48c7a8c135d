"""What a run's tags say of places is followed in the run's own bucket only."""

from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.base import PLACES, RemoteRun
from kaggleops.backends.kaggle import KaggleBackend
from kaggleops.errors import KaggleOpsError


@pytest.mark.parametrize("tag", sorted(PLACES))
def test_no_tag_leads_out_of_the_bucket(tmp_path: Path, tag: str) -> None:
    bucket = tmp_path / "bucket"
    uri = f"bucket+file://{bucket}/mlruns"
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    run = RemoteRun(KaggleBackend(), uri, run_id)
    for within in (f"bucket+file://{bucket}", uri, f"bucket+file://{bucket}/colab/{run_id}"):
        client.set_tag(run_id, tag, within)
        assert run._within(run.tags)[tag] == within
    for outside in ("/etc", f"{bucket}-of-others", "gs://other", f"bucket+file://{bucket}/../x"):
        client.set_tag(run_id, tag, outside)
        with pytest.raises(KaggleOpsError):
            list(run.logs(follow=False))
        with pytest.raises(KaggleOpsError):
            run.download(tmp_path / "down")
