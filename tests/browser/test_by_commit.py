"""MLflow's own UI over `kaggleops serve`, in a real browser.

With KAGGLEOPS_SCREENSHOTS=docs/images the pictures in the docs are taken anew.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.world import BACKENDS, COMMITS, World, points
from tests.chromium import PATIENCE
from tests.server.serving import Serving, eventually, serving

pytestmark = pytest.mark.browser


def take_picture(page: Page, name: str) -> None:
    if folder := os.environ.get("KAGGLEOPS_SCREENSHOTS"):
        page.mouse.move(0, 0)
        page.screenshot(
            path=Path(folder, name), clip={"x": 0, "y": 0, "width": 1400, "height": 560}
        )


def open_table(page: Page, server: Serving) -> None:
    """Open the run table by the link that the command prints."""
    page.goto(server.found["link"])
    expect(page.get_by_text("matching runs")).to_be_visible()


def open_run(page: Page, server: Serving, world: World, run_id: str, part: str = "") -> None:
    where = f"#/experiments/{world.experiment}/runs/{run_id}{part}"
    page.goto(f"{server.url}/{where}?workflowType=machine_learning")


def choose(page: Page, menu: str, item: str) -> None:
    page.get_by_role("button", name=menu, exact=True).click()
    page.get_by_role("menuitemcheckbox", name=item, exact=True).click()
    page.keyboard.press("Escape")


def from_top(links: Locator) -> list[str]:
    """Return the texts of elements as people read them: from the top down."""
    boxes = [(each.bounding_box(), each.inner_text()) for each in links.all()]
    return [text for _, text in sorted((box["y"], text) for box, text in boxes if box)]


def test_the_folds_of_a_sweep_are_nested_below_their_parent(
    tab: Page, server: Serving, world: World
) -> None:
    tab.goto(f"{server.url}/#/experiments/{world.folds}/runs?workflowType=machine_learning")
    expect(tab.get_by_role("link", name="fold set")).to_be_visible()
    expect(tab.get_by_role("link", name="fold 0")).to_have_count(0)
    tab.get_by_role("row").filter(has_text="fold set").get_by_role("button").first.click()
    for name in ("fold 0", "fold 1"):
        expect(tab.get_by_role("link", name=name)).to_be_visible()
    tab.get_by_role("link", name="fold set").click()
    # What its page says of them.
    expect(tab.get_by_text("Out of fold: acc 0.6250 (oof.csv).")).to_be_visible()
    expect(tab.get_by_role("cell", name="0.6250 ± 0.1768 (2)")).to_be_visible()
    link = tab.get_by_role("cell", name="fold 1").get_by_role("link")
    expect(link).to_have_attribute("href", re.compile(f"#/experiments/{world.folds}/runs/"))


COLUMNS = ["Run Name", "Created", "jaccard", "Duration", "backend", "accelerator"]


def columns(page: Page) -> list[str]:
    """Return what the columns of the run table are called, from left to right."""
    headers = page.locator(".ag-header-cell").all()
    boxes = [(each.bounding_box(), each.inner_text().strip()) for each in headers]
    return [text for _, text in sorted((box["x"], text) for box, text in boxes if box and text)]


def test_the_run_table_opens_with_the_score_by_commit(
    tab: Page, server: Serving, world: World
) -> None:
    open_table(tab, server)
    for name in world.runs:
        expect(tab.get_by_role("link", name=name)).to_be_visible()
    eventually(lambda: columns(tab) == COLUMNS)
    for commit, subject in COMMITS.items():
        expect(tab.get_by_text(f"Group: {commit} {subject}")).to_be_visible()
    for backend in BACKENDS:
        expect(tab.get_by_role("gridcell", name=backend, exact=True).first).to_be_visible()
    for stray in ("You're viewing a shared view", "Welcome to MLflow Assistant", "GenAI apps"):
        expect(tab.get_by_text(stray)).to_have_count(0)
    take_picture(tab, "by-commit.png")


def test_it_stays_as_somebody_changed_it_and_else_follows_what_is_logged(
    context: BrowserContext, server: Serving, world: World
) -> None:
    anybody = context.browser
    assert anybody
    with anybody.new_context(viewport={"width": 1400, "height": 800}) as somebodys:
        page = somebodys.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{server.url}/#/experiments/{world.other}/runs")  # not a link of ours
        eventually(lambda: columns(page) == [each for each in COLUMNS if each != "jaccard"])
        choose(page, "Group by: commit", "backend")  # besides
        world.log_other("rmse")
        eventually(lambda: any(each["data"].get("metrics") for each in server.runs(world.other)))

        def opened_again() -> bool:
            page.reload()
            expect(page.get_by_text("matching run")).to_be_visible()
            return "rmse" in columns(page)

        eventually(opened_again)
        expect(page.get_by_role("button", name="Group by: commit")).to_contain_text("+1")


def test_a_runs_page_says_what_it_is_and_its_links_lead_there(
    tab: Page, server: Serving, world: World
) -> None:
    before = world.runs["kaggle-1f0c"]
    leads = {"the run before on main": "kaggle-1f0c", "side by side": "Comparing 2 Runs"}
    open_run(tab, server, world, world.runs["kaggle-9b3e"])
    expect(tab.get_by_text("“Clean the tweets” on main, on Kaggle")).to_be_visible()
    expect(tab.get_by_text("jaccard 0.6193, 0.0200 better than")).to_be_visible()
    for text, heading in leads.items():
        with tab.expect_popup() as opened:
            tab.get_by_role("link", name=text).click()
        shown = opened.value
        expect(shown.get_by_role("heading", name=re.compile(heading)).first).to_be_visible()
        assert before in shown.url
        expect(shown.get_by_text("Welcome to MLflow Assistant")).to_have_count(0)
        shown.close()


def test_sorting_by_a_metric(page: Page, server: Serving, world: World) -> None:
    open_table(page, server)
    choose(page, "Sort: Created", "jaccard")
    expect(page.get_by_role("button", name="Sort: jaccard")).to_be_visible()
    for commit in COMMITS:  # within its group
        names = [name for name in world.runs if name.endswith(commit[:4])]
        links = page.get_by_role("link", name=re.compile(f"^({'|'.join(names)})$"))
        best_first = sorted(names, key=world.score, reverse=True)
        expect(links).to_have_count(len(names))
        eventually(lambda links=links, best=best_first: from_top(links) == best)


def test_comparing_two_commits(tab: Page, server: Serving, world: World) -> None:
    names = [f"kaggle-{commit[:4]}" for commit in COMMITS]
    open_table(tab, server)
    for name in names:
        row = tab.get_by_role("row").filter(has_text=name)
        row.get_by_role("checkbox", name="toggle row selection").check()
    tab.get_by_role("button", name="Compare").click()
    expect(tab.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for name in names:
        expect(tab.get_by_text(name).first).to_be_visible()
    tab.get_by_role("tab", name="Scatter Plot").click()
    chart = tab.locator(".js-plotly-plot").filter(has_text="jaccard")
    expect(chart).to_be_visible()
    best = chart.evaluate("plot => plot.data[0].y")
    assert sorted(best) == pytest.approx([world.score(name) for name in names], abs=0.01)


def curves(page: Page) -> dict[str, list[float]]:
    """Return the values of each run's line in the first chart, by the run's name."""
    chart = page.locator(".js-plotly-plot").first
    lines = chart.evaluate("plot => plot.data.map(line => [line.name, Array.from(line.y)])")
    return dict(lines)


@pytest.mark.parametrize("where", ["the chart view", "a comparison"])
def test_the_curves_of_several_runs(page: Page, server: Serving, world: World, where: str) -> None:
    """Their points are in the bucket alone, and are asked for together."""
    if where == "the chart view":
        part = f"experiments/{world.experiment}/runs?compareRunsMode=CHART&"
    else:
        ids = quote(json.dumps(list(world.runs.values())))
        metric = quote(json.dumps(["jaccard"]))
        home = quote(json.dumps([world.experiment]))
        part = (
            f"metric?runs={ids}&metric=%22jaccard%22&experiments={home}&plot_metric_keys={metric}&"
        )
    page.goto(f"{server.url}/#/{part}workflowType=machine_learning")
    expected = {
        name: [each.value for each in points(range(20), world.score(name))] for name in world.runs
    }
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    if where == "the chart view":  # as it opens, a line is the mean of a commit's runs
        page.get_by_role("button", name="Group by: commit").locator("[role=button]").click()
    eventually(lambda: expected.keys() <= curves(page).keys())
    shown = curves(page)
    assert {name: shown[name] for name in expected} == expected


def test_a_live_runs_chart_grows(page: Page, server: Serving, world: World) -> None:
    assert page.context.browser
    page = page.context.browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.clock.install()
    # A page that is opened before there is anything to draw never draws.
    eventually(
        lambda: any(
            each["info"]["run_id"] == world.live and each["data"].get("metrics")
            for each in server.runs(world.experiment)
        )
    )
    open_run(page, server, world, world.live, "/model-metrics")
    steps = page.locator(".js-plotly-plot .xtick")
    expect(steps.filter(has_text=re.compile("^2$"))).to_have_count(1)
    world.goes_on(range(3, 21))

    def has_grown() -> bool:
        page.clock.fast_forward(30_000)  # so often the page asks, by itself
        page.wait_for_timeout(500)
        return steps.filter(has_text=re.compile("^20$")).count() == 1

    eventually(has_grown)
    page.context.close()


def test_artifacts_open(tab: Page, server: Serving, world: World) -> None:
    open_run(tab, server, world, world.runs["kaggle-1f0c"], "/artifacts")
    tab.get_by_text("confusion.png").first.click()
    image = tab.get_by_role("img", name="confusion.png").or_(tab.locator("img[src^=blob]")).first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 64
    tab.get_by_text("report.txt").first.click()
    expect(tab.get_by_text("precision of what the model says")).to_be_visible()
    tab.get_by_text("tweets.csv").first.click()
    expect(tab.get_by_text("positive", exact=True).first).to_be_visible()


def in_bucket(world: World, run_id: str) -> tuple[str | None, str | None]:
    """Return the name and the note of a run as the bucket has them."""
    found = MlflowClient(world.uri).get_run(run_id)
    return found.info.run_name, found.data.tags.get("mlflow.note.content")


def test_a_rename_and_a_note_survive_the_machine(
    page: Page, server: Serving, world: World, tmp_path: Path
) -> None:
    run_id = world.runs["local-1f0c"]
    open_run(page, server, world, run_id)
    page.get_by_role("button", name="Open header dropdown menu").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_label("New run name").fill("baseline")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="baseline")).to_be_visible()
    page.get_by_role("button", name="Edit description").click()
    page.locator("textarea.mde-text").fill("The **first** one that works.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("one that works.")).to_be_visible()
    eventually(lambda: in_bucket(world, run_id) == ("baseline", "The **first** one that works."))
    with serving("--bucket", world.uri, home=tmp_path / "an empty disk") as other:
        open_run(page, other, world, run_id)
        expect(page.get_by_role("heading", name="baseline")).to_be_visible()
        expect(page.get_by_text("one that works.")).to_be_visible()
