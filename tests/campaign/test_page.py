"""What the page holds, and what it never does; tests/browser/test_page.py looks at it."""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from kaggleops import tags
from kaggleops.bucket import Bucket, open_bucket
from kaggleops.campaign import children
from kaggleops.campaign.publisher import PageObject
from kaggleops.campaign.state import SweepState, open_sweeps
from kaggleops.campaign.sweep import Sweep
from kaggleops.campaign.view import EVERY, offers_told, page, recent_sweeps, view_of
from kaggleops.cli.indexed import history_of
from kaggleops.index.refresh import Index
from kaggleops.layout import PAGE_KEY
from kaggleops.mlruns import EntityStore
from kaggleops.reports.history import History
from kaggleops.reports.html import data_in as data_of
from tests import secrets_of
from tests.campaign.campaigns import NOW, OFFERS, search
from tests.campaign.world import World
from tests.canaries import MARKS, marks_in
from tests.fakes.gcs_server import GcsServer

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028{{x}}@DATA@\x1b[2J"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A bucket with one run that was started by hand, and runs; one that is over, and a blend."""
    folder = tmp_path_factory.mktemp("page")
    uri = f"bucket+file://{folder}/bucket"
    client = MlflowClient(f"{uri}/mlruns")
    experiment = client.create_experiment("tweets")
    for name, score in (("by hand", 0.6), ("over", 0.7)):
        run = client.create_run(experiment, run_name=name, tags={tags.BACKEND: "kaggle"})
        client.set_tag(run.info.run_id, tags.COMMIT, "1f0c2d7a" * 5)
        client.log_metric(run.info.run_id, "jaccard", score)
    client.set_terminated(run.info.run_id)
    blend = client.create_run(experiment, tags={tags.BLEND: '{"a": 0.6, "b": 0.4}'}).info.run_id
    client.log_metric(blend, "jaccard", 0.65)
    client.set_terminated(blend)
    store = EntityStore(open_bucket(uri))
    index = Index(f"sqlite:///{folder}/index.db", store)
    index.refresh(lambda done, total: None)
    index.close()
    engine = sa.create_engine(f"sqlite:///{folder}/index.db")
    yield History(engine, lambda: store)
    engine.dispose()


def data_in(content: bytes) -> Any:
    """Return what a page shows, as its script reads it."""
    assert content.count(b'<script id="data"') == 1
    return data_of(content)


def with_point(state: SweepState, point: dict[str, str]) -> SweepState:
    trial = state.trials[0]
    return replace(state, trials=[replace(trial, point=point), *state.trials[1:]])


def test_it_shows_what_runs_waits_and_came_of_it(history: History) -> None:
    view = view_of(history, [search(40)], OFFERS, NOW, "gs://our-bucket")
    shown = data_in(page(view))
    assert shown["bucket"] == "gs://our-bucket"
    sweep = shown["sweeps"][0]
    assert sum(sweep["counts"].values()) == len(sweep["trials"]) == sweep["total"] == 40
    scores = {trial[0]: trial[2][0] for trial in sweep["trials"] if trial[2]}
    assert scores[sweep["best"]] == max(scores.values())
    assert {job["name"] for job in shown["running"]} >= {"by hand"}
    assert {job["sweep"] for job in shown["running"]} == {"lr-and-model", ""}
    assert [group["why"] for group in shown["waiting"]] == [
        "kaggle has no free hours left: waits until Sat 00:00 UTC"
    ]
    assert shown["wrong"][0]["why"].startswith("torch.OutOfMemoryError")
    ranked = [(row["commit"], row["mean"]) for row in shown["boards"][0]["rows"]]
    assert ranked == [("1f0c2d7a1f", 0.7), ("blend of 2", 0.65)]
    assert [each["hours"] for each in shown["offers"]] == [7.4, None, None, None]


def test_the_same_campaign_gives_the_same_page(history: History) -> None:
    once = view_of(history, [search(12)], OFFERS, NOW)
    again = view_of(history, [search(12)], OFFERS, NOW)
    later = view_of(history, [search(12)], OFFERS, NOW + timedelta(minutes=9))
    other = view_of(history, [search(13)], OFFERS, NOW)
    assert page(once) == page(again)
    assert page(once) != page(later)
    assert once == {**later, "now": once["now"]}
    assert once != other


def test_what_others_wrote_ends_no_script_and_is_data(history: History) -> None:
    state = with_point(search(12, name=HOSTILE), {HOSTILE: HOSTILE})
    state = replace(state, tags={tags.TOLD: HOSTILE}, problem=HOSTILE)
    content = page(view_of(history, [state], OFFERS, NOW, HOSTILE))
    assert content.count(b"<script") == content.count(b"</script>") == 2
    assert b"<img" not in content
    assert b"\xe2\x80\xa8" not in content
    told = data_in(content)["sweeps"][0]["told"]
    assert told == HOSTILE.replace("\u2028", "\\u2028").replace("\x1b", "\\x1b")


def test_its_own_script_is_all_that_may_run_and_nothing_may_be_asked(history: History) -> None:
    content = page(view_of(history, [], None, NOW)).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    script = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    assert policy is not None
    rules = dict(each.strip().split(" ", 1) for each in policy[1].split(";"))
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert not re.search(r"\b(src|href)=", content)


def test_no_secret_is_in_it(history: History) -> None:
    secrets = [
        f"https://ada:{MARKS['password of a database']}@host/x",
        secrets_of.GITHUB_TOKEN,
        secrets_of.HUGGING_FACE_TOKEN,
        secrets_of.RUNPOD_KEY,
        f"Bearer {MARKS['bearer header']}",
    ]
    said = " ".join(secrets)
    point = {"hub.api_key": MARKS["Kaggle key"], "said": said, said: "x"}
    state = with_point(search(12, name=said), point)
    job = replace(state.trials[0].jobs[0], status="FAILED", tags={tags.JOB_ENDED: said})
    trial = replace(state.trials[0], jobs=[job])
    state = replace(state, trials=[trial, *state.trials[1:]], tags={tags.TOLD: said}, problem=said)
    offers = [replace(OFFERS[0], problem=said)]
    content = page(view_of(history, [state], offers, NOW, secrets[0]))
    assert marks_in(content) == set()
    assert "***" in data_in(content)["sweeps"][0]["told"]


def test_it_stays_small_and_says_what_it_leaves_out(history: History) -> None:
    large = search(1500)
    points = [(step, step / 7) for step in range(100_000)]
    large = replace(large, trials=[replace(each, reports=points) for each in large.trials])
    many = [replace(search(12, seed=number), id=f"{number:032d}") for number in range(30)]
    content = page(view_of(history, [large, *many], OFFERS, NOW))
    shown = data_in(content)
    assert len(content) < 1_000_000
    assert sum(len(each["trials"]) for each in shown["sweeps"]) == 1000
    assert sum(each["more"] for each in shown["sweeps"]) > 500
    assert shown["more_sweeps"] == 11
    biggest = next(each for each in shown["sweeps"] if each["total"] == 1500)
    assert biggest["best"] in {trial[0] for trial in biggest["trials"]}
    assert all(curve[-1] == [99_999, 14285.6] for _, _, curve in biggest["curves"])


def test_no_number_breaks_it(history: History) -> None:
    state = search(12)
    odd = [float("nan"), float("inf"), float("-inf")]
    trials = [
        replace(each, values=[value], reports=[(0, value), (1, value)])
        for each, value in zip(state.trials, odd, strict=False)
    ]
    shown = data_in(page(view_of(history, [replace(state, trials=trials)], None, NOW)))
    assert [each[2] for each in shown["sweeps"][0]["trials"]] == [["NaN"], ["∞"], ["-∞"]]
    assert shown["sweeps"][0]["best"] is None


def test_a_sweep_that_nobody_can_have_meant_is_shown_with_the_others(history: History) -> None:
    odd = search(12, seed=1)
    odd = replace(
        odd, sweep=replace(odd.sweep, budget=float("nan"), directions=[], trials=-(10**9))
    )
    tags_of_job = {tags.SESSIONS: "[[[", tags.COST: "inf", tags.ACCELERATOR: "\ud800"}
    jobs = [replace(odd.trials[0].jobs[0], tags=tags_of_job, metrics={"jaccard": float("nan")})]
    odd = replace(odd, trials=[replace(odd.trials[0], jobs=jobs, values=[]), *odd.trials[1:]])
    none = SweepState("0" * 32, "1", "", Sweep([]), problem="its tag is none of ours")
    offers = [replace(OFFERS[0], hours=float("inf"), price=float("nan"))]
    shown = data_in(page(view_of(history, [odd, none, search(3)], offers, NOW)))
    assert [each["total"] for each in shown["sweeps"]] == [3, 12, 0]
    assert [each["budget"] for each in shown["sweeps"]] == [5.0, None, None]
    assert (shown["offers"][0]["hours"], shown["offers"][0]["price"]) == (None, None)


def test_what_a_watcher_was_told_is_read_from_its_page_and_not_believed(history: History) -> None:
    content = page(view_of(history, [], OFFERS, NOW))
    told = offers_told(data_of(content))
    assert told == (data_in(content)["offers"], int(NOW.timestamp() * 1000))
    row = data_in(content)["offers"][0]
    for odd in ("x", [1], {}, True, None, float("nan"), float("inf"), 10**400):
        assert offers_told({"now": 1, "offers": [{**row, "sessions": odd}, [], 7]}) is None
    assert offers_told({"now": 10**400, "offers": [row]}) is None
    for other in (None, [], 3, {}, {"now": 1, "offers": 5}, {"now": "x", "offers": [row]}):
        assert offers_told(other) is None
    assert data_of(b"<html>" * 1000) is None
    assert data_of(b'<script id="data" type="application/json">' + b"[" * 100_000) is None
    hostile = offers_told(
        {"now": 1, "offers": [{**row, "problem": f"{secrets_of.GITHUB_TOKEN} " * 9}]}
    )
    assert hostile is not None
    assert secrets_of.GITHUB_TOKEN not in hostile[0][0]["problem"]


@pytest.mark.parametrize("named", [{"metrics": ["score"], "directions": ["maximize"]}, {}])
def test_sweeps_of_a_bucket_are_shown_whether_they_go_on_or_are_over(
    world: World, named: dict[str, Any]
) -> None:
    ids = [world.begin("alpha=1,2", **named) for _ in range(2)]
    client = MlflowClient(world.uri)
    with history_of(str(world.folder), None, fresh_for=0) as history:
        for state in open_sweeps(history):
            for number, alpha in enumerate(("1", "2")):
                (run,) = children.make_trial(world.uri, state, number, {"alpha": alpha})
                client.log_metric(run.info.run_id, "score", float(alpha), step=1)
                client.log_metric(run.info.run_id, "score", float(alpha), step=2)
                if number or state.id == ids[0]:
                    client.set_terminated(run.info.run_id)
    client.set_terminated(ids[0])
    with history_of(str(world.folder), None, fresh_for=0) as history:
        states = recent_sweeps(history)
        shown = view_of(history, states, None, NOW)
        known = recent_sweeps(history, open_sweeps(history))
        assert {each.id for each in known} == set(ids)
    assert {each["id"]: each["counts"] for each in shown["sweeps"]} == {
        ids[0]: {"FINISHED": 2},
        ids[1]: {"FINISHED": 1, "SCHEDULED": 1},
    }
    assert [each["best"] for each in shown["sweeps"]] == [1, 1]
    assert [each["metrics"] for each in shown["sweeps"]] == [["score"], ["score"]]
    curves = next(each for each in shown["sweeps"] if each["id"] == ids[0])["curves"]
    assert curves == [[1, "FINISHED", [[1, 2.0], [2, 2.0]]], [0, "FINISHED", [[1, 1.0], [2, 1.0]]]]
    assert [(group["count"], group["names"]) for group in shown["waiting"]] == [(1, ["trial 0"])]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, GcsServer]]:
    with GcsServer() as gcs:
        gcs.create_bucket("our-bucket")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        yield open_bucket("gs://our-bucket"), gcs


def test_the_object_is_written_when_something_changed_or_it_would_look_old(
    bucket: tuple[Bucket, GcsServer],
) -> None:
    place, gcs = bucket

    def view(x: int, seconds: int = 0, *, live: bool = True) -> dict[str, Any]:
        return {"now": 1000 * (10**9 + seconds), "live": live, "sweeps": [], "x": x}

    kept = PageObject(place)
    assert kept.update(view(1))
    assert not kept.update(view(1, EVERY - 1))
    assert kept.update(view(2, EVERY - 1))
    assert kept.update(view(2, 2 * EVERY))
    # Another watcher's is replaced by what is newer, whoever wrote last.
    assert PageObject(place).update(view(3))
    assert kept.update(view(4, 2 * EVERY))
    assert kept.update(view(5, live=False))
    assert not kept.update(view(5, 9 * 86_400, live=False))
    stored = gcs.objects("our-bucket")[PAGE_KEY]
    assert stored.fields["contentType"] == "text/html"
    assert data_in(stored.data) == view(5, live=False)
