"""A run's page and its experiment's run table, as `kaggleops run` leaves them."""

from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kaggleops.tags import NOTE, PREVIOUS
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

WEB = "https://github.com/ada/toy"


def test_a_run_says_what_it_is_what_changed_on_its_branch_and_what_it_came_to(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.git("remote", "add", "origin", WEB)
    main = toy.git("branch", "--show-current")
    before, sha = toy.git("rev-parse", "HEAD~"), toy.git("rev-parse", "HEAD")
    bucket = tmp_path / "bucket"
    monkeypatch.setenv("KAGGLEOPS_NOTEBOOK_URL", "https://www.kaggle.com/code/ada/toy")

    def run(*overrides: str) -> Run:
        done = kaggleops_here("run", *overrides, "--bucket", bucket, "--json", cwd=toy.folder)
        assert done.code == 0, done.errors
        return client.get_run(done.json["run_id"])

    client = mlflow.MlflowClient(f"bucket+file://{bucket}/mlruns")
    toy.git("reset", "-q", "--hard", before)
    first = run("alpha=0.3")
    run("alpha=0.2")  # other settings
    toy.git("checkout", "-q", "-b", "idea")
    run("alpha=0.3")  # another branch
    toy.git("checkout", "-q", main)
    (toy.folder / "new.txt").write_text("changes of no commit")
    patched = run("alpha=0.3", "--uncommitted")
    again = run("alpha=0.3", "--uncommitted")
    assert patched.data.tags[PREVIOUS] == first.info.run_id
    assert again.data.tags[PREVIOUS] == patched.info.run_id
    (toy.folder / "new.txt").unlink()
    toy.git("reset", "-q", "--hard", sha)
    failed = run("alpha=0.3")
    client.set_terminated(failed.info.run_id, "FAILED")  # there is nothing to set it beside
    second = run("alpha=0.3")

    note = second.data.tags[NOTE]
    assert second.data.tags[PREVIOUS] == first.info.run_id
    said, since = note.partition("\n\n")[0].split("\n")
    assert said == (
        f"Commit [`{sha[:10]}`]({WEB}/commit/{sha}) “Second version” on `{main}`, "
        "with `alpha=0.3`, on a machine of your own."
    )
    home = second.info.experiment_id
    page = f"#/experiments/{home}/runs/{first.info.run_id}?workflowType=machine_learning"
    assert since.startswith(
        f"**alpha 0.3000**, the same as [the run before on `{main}`]({page}), of `{before[:10]}` "
        f"“First version” (one run each: no telling): "
        f"[what changed]({WEB}/compare/{before}%2E%2E%2E{sha}) · [side by side](#/compare-runs?"
    )
    assert since.endswith(" · [notebook](https://www.kaggle.com/code/ada/toy)")
    assert "the run before" not in first.data.tags[NOTE]
    assert "\n**alpha 0.3000** · [notebook]" in first.data.tags[NOTE]
