"""The campaign's page in a real browser: on a phone and on a wide screen, dark and light.

With KAGGLEOPS_SCREENSHOTS=docs/images the pictures in the docs are taken anew.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from playwright.sync_api import BrowserContext, Page, expect

from kaggleops import tags
from kaggleops.bucket import open_bucket
from kaggleops.campaign import view as views
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.view import page as page_of
from kaggleops.campaign.view import view_of
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.reports.history import History
from tests.campaign.campaigns import NOW, OFFERS, search
from tests.canaries import MARKS

pytestmark = pytest.mark.browser

HOSTILE = "<img src=https://evil.example/x onerror=alert(1)></script><script>alert(2)</script>"
LONG = "an_axis_whose_name_has_no_place_to_break_" * 4


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A bucket with a leaderboard of three commits."""
    folder = tmp_path_factory.mktemp("page")
    uri = f"bucket+file://{folder}/bucket"
    client = MlflowClient(f"{uri}/mlruns")
    experiment = client.create_experiment("tweet_sentiment")
    for commit in range(3):
        for fold in range(3):
            told = {tags.COMMIT: f"{commit}f0c2d7a" * 5, tags.BACKEND: "kaggle"}
            run = client.create_run(experiment, tags=told)
            score = 0.6 + 0.03 * commit + 0.008 * fold
            client.log_batch(
                run.info.run_id, [Metric("jaccard", score, 1, 0)], [Param("fold", str(fold))]
            )
            client.set_terminated(run.info.run_id)
    store = EntityStore(open_bucket(uri))
    index = Index(f"sqlite:///{folder}/index.db", store)
    index.refresh(lambda done, total: None)
    index.close()
    engine = sa.create_engine(f"sqlite:///{folder}/index.db")
    yield History(engine, lambda: store)
    engine.dispose()


class Opened:
    """The page, open in a browser, and what became of that."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page = page
        self.file = file
        self.asked: list[str] = []
        self.said: list[str] = []

    @property
    def overflow(self) -> int:
        """By how many pixels it is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@contextmanager
def opened(
    context: BrowserContext,
    history: History,
    states: Sequence[SweepState],
    folder: Path,
    *,
    width: int = 1280,
    scheme: Literal["dark", "light"] = "light",
    later: timedelta = timedelta(minutes=3),
) -> Iterator[Opened]:
    """Open the page from a disk, as somebody who has copied it from the bucket does."""
    file = folder / "index.html"
    offers = OFFERS if states else None
    file.write_bytes(page_of(view_of(history, states, offers, NOW, "gs://our-bucket")))
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.clock.set_fixed_time(NOW + later)
    shown = Opened(page, file)
    page.on("request", lambda request: shown.asked.append(request.url))
    page.on("console", lambda message: shown.said.append(message.text))
    page.on("pageerror", lambda error: shown.said.append(str(error)))
    page.on("dialog", lambda dialog: (shown.said.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    expect(page.locator("footer")).to_be_visible()
    yield shown
    assert shown.said == []
    assert shown.asked == [file.as_uri()]
    page.close()


def sized(count: int) -> list[SweepState]:
    return [search(count, folds=5 if count < 100 else 1)] if count else []


COLOURS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""

CONTRAST = """() => {
  const numbers = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((each) => (each /= 255, each <= .04045 ? each / 12.92
      : ((each + .055) / 1.055) ** 2.4));
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = numbers(getComputedStyle(each).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.tagName === "title") continue;
    const style = getComputedStyle(element);
    const front = light(numbers(element instanceof SVGElement ? style.fill : style.color));
    const back = light(ground(element));
    const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.tagName} ${element.textContent}`);
  }
  return poor;
}"""


@pytest.mark.parametrize(
    ("width", "count", "scheme"),
    [(390, 0, "light"), (390, 40, "dark"), (1280, 3, "dark"), (2000, 1000, "light")],
)
def test_it_fits_and_can_be_read(
    context: BrowserContext,
    history: History,
    tmp_path: Path,
    width: int,
    count: int,
    scheme: Literal["dark", "light"],
) -> None:
    with opened(context, history, sized(count), tmp_path, width=width, scheme=scheme) as shown:
        page = shown.page
        assert shown.overflow == 0
        assert page.evaluate(CONTRAST) == []
        assert page.get_by_text("updated 3 min ago").is_visible()
        if not count:
            expect(page.locator("#nothing")).to_contain_text("kaggleops sweep")
            return
        expect(page.locator("#running tbody tr").first).to_contain_text("50 min ago")
        expect(page.locator(".board tbody tr").first).to_contain_text("2f0c2d7a2f")
        expect(page.locator(".board .whisker")).to_have_count(3)
        expect(page.locator("#offers")).to_contain_text("7.4 h")
        if count > 3:
            expect(page.locator("#waiting")).to_contain_text("kaggle has no free hours left")
            expect(page.locator(".sweep .parallel polyline.best")).to_have_count(1)
            drawn = page.locator(".sweep .curves canvas").evaluate(COLOURS)
            assert drawn > 20, "nothing is drawn"


def test_what_others_wrote_is_text(
    context: BrowserContext, history: History, tmp_path: Path
) -> None:
    state = search(12, name=HOSTILE)
    trials = [
        replace(each, point={**each.point, LONG: f"{HOSTILE}{each.number}"})
        for each in state.trials
    ]
    trials[5] = replace(
        trials[5], jobs=[replace(trials[5].jobs[0], tags={tags.DECISION: LONG * 5})]
    )
    state = replace(state, trials=trials, tags={tags.TOLD: HOSTILE * 2})
    with opened(context, history, [state], tmp_path, width=390) as shown:
        page = shown.page
        expect(page.locator("#told")).to_contain_text(HOSTILE)
        expect(page.locator(".sweep .name")).to_have_text(HOSTILE)
        expect(page.locator(".sweep .parallel .ticks")).to_contain_text([HOSTILE, "0."])
        assert page.locator("img, iframe, object, a[href]").count() == 0
        assert page.locator("script").count() == 2
        assert shown.overflow == 0


def test_it_says_that_nobody_keeps_it(
    context: BrowserContext, history: History, tmp_path: Path
) -> None:
    late = timedelta(seconds=3 * views.EVERY)
    with opened(context, history, sized(3), tmp_path, later=late) as shown:
        expect(shown.page.locator("#stale")).to_contain_text("This page is 30 min old")
    with opened(context, history, sized(3), tmp_path) as shown:
        expect(shown.page.locator("#stale")).to_be_hidden()
    over = [search(3, ended=True)]
    with opened(context, history, over, tmp_path, later=late) as shown:
        expect(shown.page.locator("#stale")).to_have_count(0)


def test_parameters_and_score_are_lines_that_tell_their_trials(
    context: BrowserContext, history: History, tmp_path: Path
) -> None:
    state = search(40)
    trials = [
        replace(each, point={**each.point, "hub.api_key": f"{MARKS['Kaggle key']}{each.number}"})
        for each in state.trials
    ]
    state = replace(state, trials=trials)
    with opened(context, history, [state], tmp_path, width=390, scheme="dark") as shown:
        page, chart = shown.page, shown.page.locator(".sweep .parallel")
        names = ["model", "batch_size", "learning_rate (log)", "weight_decay", "jaccard"]
        expect(chart.locator(".axis b")).to_have_text(names)
        expect(chart.locator(".axis").first.locator(".ticks span")).to_have_text(
            ["deberta-v3-small", "minilm", "roberta-squad2"]
        )
        expect(chart.locator("polyline")).to_have_count(31)
        assert MARKS["Kaggle key"] not in page.content()
        best = page.locator(".sweep tr.best")
        number = str(best.get_attribute("data-trial"))
        points = str(chart.locator("polyline.best").get_attribute("points"))
        assert points.startswith("1.0000,"), "roberta-squad2 is the last of the models"
        assert points.split()[-1].startswith("1.0000,"), "no score is higher"
        expect(chart.locator("polyline.best title")).to_contain_text(f"trial {number}: 0.746 · ")
        best.hover()
        expect(chart.locator("polyline.lit")).to_have_attribute("data-trial", number)
        page.locator("footer").hover()
        expect(chart.locator("polyline.lit")).to_have_count(0)


@pytest.mark.parametrize(
    ("values", "ticks", "shares"),
    [
        (["1", "2", "3", "5"], ["1", "5"], [0, 0.25, 0.5, 1]),
        (["1e-4", "1e-2", "1e-3", "1e-4"], ["0.0001", "0.01"], [0, 1, 0.5, 0]),
        (["a", "", "1", "a"], ["(none)", "1", "a"], [1, 0, 0.5, 1]),
        (["-1e308", "1e308", "0", "0"], ["-1e308", "0", "1e308"], [0, 1, 0.5, 0.5]),
        (["1", "1.0", "1e0", "1"], ["1"], [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_an_axis_is_of_numbers_or_of_words(
    context: BrowserContext,
    history: History,
    tmp_path: Path,
    values: list[str],
    ticks: list[str],
    shares: list[float],
) -> None:
    state = search(4, ended=True)
    trials = [
        replace(trial, point={"x": value}, values=[0.1 * trial.number], status="FINISHED")
        for trial, value in zip(state.trials, values, strict=True)
    ]
    with opened(context, history, [replace(state, trials=trials)], tmp_path) as shown:
        chart = shown.page.locator(".parallel")
        expect(chart.locator(".axis").first.locator(".ticks span")).to_have_text(ticks)
        lines = chart.locator("polyline").all()
        found = [str(line.get_attribute("points")).partition(",")[0] for line in lines]
        assert [float(each) for each in found] == shares


def test_a_curve_tells_its_trial_and_all_trials_are_shown_on_demand(
    context: BrowserContext, history: History, tmp_path: Path
) -> None:
    with opened(context, history, sized(40), tmp_path) as shown:
        page = shown.page
        page.locator(".sweep .curves .u-over").hover(position={"x": 200, "y": 60})
        expect(page.locator(".curves .readout")).to_contain_text("· step")
        page.get_by_role("button", name="Show 30 more of 40").click()
        expect(page.locator(".sweep tbody tr")).to_have_count(40)


def test_pictures_for_the_docs(context: BrowserContext, history: History, tmp_path: Path) -> None:
    folder = Path(os.environ.get("KAGGLEOPS_SCREENSHOTS", tmp_path))
    for name, width, height in (("page", 1280, 1780), ("phone", 390, 844)):
        scheme: Literal["dark", "light"] = "light" if name == "page" else "dark"
        with opened(context, history, [search(40)], tmp_path, width=width, scheme=scheme) as shown:
            shown.page.set_viewport_size({"width": width, "height": height})
            shown.page.screenshot(path=folder / f"campaign-{name}.png")
            assert shown.page.locator(".sweep tr.best").count() == 1
