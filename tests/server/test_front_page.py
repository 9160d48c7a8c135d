"""How MLflow's run tables look when somebody opens them: told from the index, for who may read."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from starlette.requests import Request

from kaggleops import tags
from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.server.pages import FrontPage, view, views_in

STOCK = '<!doctype html><html><head><script src="main.js"></script></head></html>'


class Place:
    """A bucket and its index."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"bucket+file://{folder}/bucket"
        self.client = MlflowClient(f"{self.uri}/mlruns")
        self.url = f"sqlite:///{folder}/index.db"
        self._index = Index(self.url, EntityStore(open_bucket(self.uri)))

    def run(self, home: str, said: dict[str, str], **metrics: float) -> Run:
        run = self.client.create_run(home, tags=said)
        points = [Metric(name, value, 1, 0) for name, value in metrics.items()]
        self.client.log_batch(run.info.run_id, points)
        self.client.set_terminated(run.info.run_id)
        return run

    def views(self) -> dict[str, dict[str, Any]]:
        self._index.refresh(lambda done, total: None)
        engine = sa.create_engine(self.url)
        try:
            return views_in(engine)
        finally:
            engine.dispose()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


COMMIT = {tags.SHORT_COMMIT: "1f0c2d7a99", tags.TITLE: "1f0c2d7a99 Learn faster"}


def grouped_by(shown: dict[str, Any]) -> list[str]:
    keys = (shown["groupBy"] or {}).get("groupByKeys", ())
    return [key["groupByData"] for key in keys]


def test_each_experiment_shows_its_score_and_follows_what_is_logged(place: Place) -> None:
    home, other = (place.client.create_experiment(name) for name in ("a", "b"))
    place.run(home, COMMIT, lr=0.1, train_loss=0.2, jaccard=0.7)
    place.run(other, COMMIT)
    views = place.views()
    rest = ["attributes.`Duration`", "tags.`backend`", "tags.`accelerator`"]
    assert views[home]["selectedColumns"] == ["metrics.`jaccard`", *rest]
    assert views[other]["selectedColumns"] == rest
    assert grouped_by(views[home]) == [tags.TITLE]
    place.run(other, {**COMMIT, tags.SCORE: "gap lower"}, gap=1.0, jaccard=0.5)
    assert place.views()[other]["selectedColumns"] == ["metrics.`gap`", *rest]


@pytest.mark.parametrize(
    ("tagged", "by", "first"),
    [
        ({tags.SHORT_COMMIT: 3, tags.TITLE: 3}, [tags.TITLE], "attributes.`Duration`"),
        # Runs of an earlier release: none of them may be hidden.
        ({tags.SHORT_COMMIT: 3, tags.TITLE: 2}, [tags.SHORT_COMMIT], "tags.`commit`"),
        ({tags.SHORT_COMMIT: 3}, [tags.SHORT_COMMIT], "tags.`git_commit`"),
        # MLflow nests no runs within groups.
        ({tags.SHORT_COMMIT: 3, tags.TITLE: 3, tags.PARENT: 1}, [], "tags.`commit`"),
        ({}, [], "attributes.`Duration`"),
    ],
)
def test_runs_are_grouped_by_commit_where_that_hides_none(
    tagged: dict[str, int], by: list[str], first: str
) -> None:
    shown = view(None, tagged)
    assert (grouped_by(shown), shown["selectedColumns"][0]) == (by, first)


def test_the_page_is_mlflows_own_with_the_views_of_what_its_reader_may_read(
    place: Place, tmp_path: Path
) -> None:
    mine, secret = (place.client.create_experiment(each) for each in ("mine", "secret"))
    for home in (mine, secret):
        place.run(home, COMMIT, acc=0.5)
    place.views()
    with sa.create_engine(place.url).begin() as connection:  # MLflow takes no such name
        connection.execute(sa.text("update latest_metrics set key = 'acc</script><b>'"))
    file = tmp_path / "index.html"
    readable = {mine}

    def may_read(request: Request, experiments: Collection[str]) -> bool | None:
        return None if request.headers.get("x") else readable.issuperset(experiments)

    page = FrontPage(sa.create_engine(place.url), may_read, file)

    def ask(*headers: tuple[bytes, bytes]) -> tuple[int, str]:
        answer = page.page(Request({"type": "http", "headers": headers}))
        return answer.status_code, bytes(answer.body).decode()

    assert ask()[0] == 501
    file.write_text(STOCK)
    assert ask((b"x", b"1"))[0] == 401
    status, content = ask()
    found = re.fullmatch(r"(.*<head>)<script>(.*?)</script>(.*)", content, re.DOTALL)
    assert status == 200
    assert found
    assert found[1] + found[3] == STOCK
    told = json.loads(found[2].rpartition("})(")[2].rstrip().removesuffix(");"))
    assert told.keys() == {mine}
    readable.add(secret)
    assert secret in ask()[1]
