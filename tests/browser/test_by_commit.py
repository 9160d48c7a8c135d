"""MLflow's own UI over `kaggleops serve`, in a real browser.

With KAGGLEOPS_SCREENSHOTS=docs/images the pictures in the docs are taken anew.
"""

import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Locator, Page, expect

from tests.browser.world import BACKENDS, COMMITS, World
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
    close_assistant(page)
    expect(page.get_by_text("matching runs")).to_be_visible()


def close_assistant(page: Page) -> None:
    page.get_by_role("button", name="Close", exact=True).last.click()


def open_run(page: Page, server: Serving, world: World, run_id: str, part: str = "") -> None:
    where = f"#/experiments/{world.experiment}/runs/{run_id}{part}"
    page.goto(f"{server.url}/{where}?workflowType=machine_learning")
    close_assistant(page)


def choose(page: Page, menu: str, item: str) -> None:
    page.get_by_role("button", name=menu, exact=True).click()
    page.get_by_role("menuitemcheckbox", name=item, exact=True).click()
    page.keyboard.press("Escape")


def from_top(links: Locator) -> list[str]:
    """Return the texts of elements as people read them: from the top down."""
    boxes = [(each.bounding_box(), each.inner_text()) for each in links.all()]
    return [text for _, text in sorted((box["y"], text) for box, text in boxes if box)]


def test_the_run_table_lists_runs_of_three_backends(
    page: Page, server: Serving, world: World
) -> None:
    open_table(page, server)
    for name in world.runs:
        expect(page.get_by_role("link", name=name)).to_be_visible()
    page.get_by_role("button", name="Columns", exact=True).click()
    page.get_by_placeholder("Search columns").fill("backend")
    page.get_by_text("backend", exact=True).last.click()
    page.keyboard.press("Escape")
    for backend in BACKENDS:
        expect(page.get_by_role("gridcell", name=backend, exact=True).first).to_be_visible()
    take_picture(page, "run-table.png")


def test_sorting_by_a_metric(page: Page, server: Serving, world: World) -> None:
    open_table(page, server)
    choose(page, "Sort: Created", "jaccard")
    expect(page.get_by_role("button", name="Sort: jaccard")).to_be_visible()
    names = page.get_by_role("link", name=re.compile("^(" + "|".join(world.runs) + ")$"))
    best_first = sorted(world.runs, key=world.score, reverse=True)
    expect(names).to_have_count(len(best_first))
    eventually(lambda: from_top(names) == best_first)


def test_grouping_by_commit(page: Page, server: Serving, world: World) -> None:
    open_table(page, server)
    choose(page, "Group by", "git_commit")
    expect(page.get_by_role("button", name="Group by: git_commit")).to_be_visible()
    for commit in COMMITS:
        expect(page.get_by_text(commit).first).to_be_visible()
    take_picture(page, "by-commit.png")


def test_comparing_two_commits(page: Page, server: Serving, world: World) -> None:
    names = [f"kaggle-{commit[:4]}" for commit in COMMITS]
    open_table(page, server)
    for name in names:
        row = page.get_by_role("row").filter(has_text=name)
        row.get_by_role("checkbox", name="toggle row selection").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for name in names:
        expect(page.get_by_text(name).first).to_be_visible()
    page.goto(f"{page.url}&workflowType=machine_learning")
    page.get_by_role("tab", name="Scatter Plot").click()
    chart = page.locator(".js-plotly-plot").filter(has_text="jaccard")
    expect(chart).to_be_visible()
    best = chart.evaluate("plot => plot.data[0].y")
    assert sorted(best) == pytest.approx([world.score(name) for name in names], abs=0.01)
    take_picture(page, "compare.png")


def test_a_live_runs_chart_grows(page: Page, server: Serving, world: World) -> None:
    open_run(page, server, world, world.live, "/model-metrics")
    steps = page.locator(".js-plotly-plot .xtick")
    expect(steps.filter(has_text=re.compile("^2$"))).to_have_count(1)
    world.goes_on(range(3, 21))
    expect(steps.filter(has_text=re.compile("^20$"))).to_have_count(1, timeout=120_000)
    take_picture(page, "live-chart.png")


def test_artifacts_open(page: Page, server: Serving, world: World) -> None:
    open_run(page, server, world, world.runs["kaggle-1f0c"], "/artifacts")
    page.get_by_text("confusion.png").first.click()
    image = page.get_by_role("img", name="confusion.png").or_(page.locator("img[src^=blob]")).first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 64
    page.get_by_text("report.txt").first.click()
    expect(page.get_by_text("precision of what the model says")).to_be_visible()
    page.get_by_text("tweets.csv").first.click()
    expect(page.get_by_text("positive", exact=True).first).to_be_visible()


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
