"""What is printed of a run that was handed to a platform."""

from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.manual import ManualBackend
from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.submission import show_submitted
from kaggleops.errors import KaggleOpsError


class Silent(ManualBackend):
    """A platform that has taken a job, and does not answer now."""

    def state(self, tags: Mapping[str, str]) -> None:
        raise KaggleOpsError("asking the platform", "it does not answer")

    def page(self, tags: Mapping[str, str]) -> str:
        return "https://platform.example/job"

    def steps(self, tags: Mapping[str, str]) -> list[str]:
        return []


def test_it_is_shown_whether_or_not_the_platform_answers_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tracking_uri(str(tmp_path))
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("toy")).info.run_id
    show_submitted(RemoteRun(Silent(), uri, run_id))
    shown = capsys.readouterr().out
    assert "https://platform.example/job" in shown
    assert f"kaggleops logs -f {run_id}" in shown
