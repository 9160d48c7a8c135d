"""The examples of docs/long.md: three legs make the very run that one session makes."""

import re
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch, launch
from kaggleops.launch.overrides import Overrides
from tests import warm
from tests.fakes.git_server import Repository

DOCS = Path(__file__).parents[2] / "docs"
STEPS = 3


@pytest.mark.parametrize(
    ("example", "model"), [("pytorch", "model.pt"), ("trainer", "model/model.safetensors")]
)
def test_three_legs_equal_one_session(
    example: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in warm.stand_in("training").items():
        monkeypatch.setenv(name, value)
    repository = Repository(tmp_path / "long")
    files = {file.name: file.read_text() for file in (DOCS / "examples" / example).iterdir()}
    for name, text in files.items():
        (repository.folder / name).write_text(text)
    repository.commit("As in the documentation")
    commit = find_commit(repository.folder)
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)

    def leg(run: Run | None = None, *, ends: bool = False) -> Run:
        given = Overrides([] if run else [f"steps={STEPS}"])
        run_id = run.info.run_id if run else None
        return launch(commit, Launch(uri, given, run_id=run_id, session_ends=0 if ends else None))

    def made(run: Run) -> tuple[bytes, dict[str, list[tuple[int, float]]]]:
        artifact = Path(client.download_artifacts(run.info.run_id, model))
        keys = {"loss", "learning_rate", "grad_norm"} & run.data.metrics.keys()
        histories = {key: client.get_metric_history(run.info.run_id, key) for key in keys}
        # In any order: the Trainer's callback logs them in threads.
        points = {key: sorted((each.step, each.value) for each in histories[key]) for key in keys}
        return artifact.read_bytes(), points

    whole = leg()
    assert whole.info.status == "FINISHED"
    run = leg(ends=True)
    for _ in range(STEPS - 2):
        assert run.info.status == "SCHEDULED"
        run = leg(run, ends=True)
    run = leg(run)
    assert run.info.status == "FINISHED"
    assert made(run) == made(whole)
    assert len(made(run)[1]["loss"]) == STEPS


def test_what_the_page_shows_of_them_is_in_them() -> None:
    page = (DOCS / "long.md").read_text()
    shown = dict(
        re.findall(r"\(\[the whole file\]\((.+?)\)\).*?```python\n(.*?)```", page, re.DOTALL)
    )
    assert len(shown) == 2
    for name, code in shown.items():
        file = (DOCS / name).read_text()
        lines = [re.sub(r": Any| -> None", "", line).strip() for line in file.splitlines()]
        for line in code.splitlines():
            assert line.strip() in lines, line
