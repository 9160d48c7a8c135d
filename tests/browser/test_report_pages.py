"""The comparison's and the leaderboard's pages in a real browser: they fit, dark and light.

With KAGGLEOPS_SCREENSHOTS=docs/images the pictures in the docs are taken anew.
"""

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import mlflow
import pytest
from click.testing import CliRunner
from playwright.sync_api import BrowserContext, expect

from kaggleops.cli import main
from tests.reports.lab import Lab

pytestmark = pytest.mark.browser

LONG = "a subject that says at length what was changed and why, and has no end " * 3


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both pages over commits of five folds each, one of which is worse."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAGGLEOPS_HOME", str(folder / "home"))
        lab = Lab(folder)
        patch.chdir(lab.repository.folder)
        client = mlflow.MlflowClient(lab.tracking_uri)
        chance = random.Random(2)
        subjects = {lab.base: "Train", lab.better: "Learn faster"}
        for commit, mean, kaggle in (
            (lab.base, 0.700, 0.691),
            (lab.better, 0.722, 0.712),
            (lab.merged, 0.721, 0.714),
            (lab.worse, 0.672, 0.664),
        ):
            subject = LONG if commit == lab.merged else subjects.get(commit, "Learn much faster")
            told = {"git_subject": subject, "kaggleops.score": "jaccard"}
            for fold in range(5):
                score = mean + 0.004 * fold + chance.gauss(0, 0.001)
                params = {"lr": "3e-5", "fold": str(fold)}
                run = lab.log(commit, f"tidy-{commit[:3]}-{fold}", params, score, **told)
                for step in range(0, 800, 20):
                    value = score - 0.3 * math.exp(-step / 150) + chance.gauss(0, 0.003)
                    client.log_metric(run, "eval_jaccard", value, 1, step)
            client.log_metric(run, "public_score", kaggle)
        found = {name: folder / f"{name}.html" for name in ("compare", "leaderboard")}
        bucket = ["--bucket", str(lab.bucket)]
        for command in (["compare", "v1", "idea"], ["leaderboard"]):
            file = ["--html", str(found[command[0]])]
            done = CliRunner().invoke(main, [*command, *file, *bucket])
            assert done.exit_code == 0, done.output
        yield found


@pytest.mark.parametrize("name", ["compare", "leaderboard"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (2000, "dark")])
def test_it_fits_and_asks_nobody_for_anything(
    context: BrowserContext,
    pages: dict[str, Path],
    tmp_path: Path,
    name: str,
    width: int,
    scheme: Literal["dark", "light"],
) -> None:
    page = context.new_page()
    problems: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(pages[name].as_uri())
    expect(page.locator("canvas")).to_have_count(3 if name == "compare" else 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 60) is (scheme == "dark")
    for chart in page.locator(".chart").all():
        chart.locator(".u-over").hover()  # its middle: a curve, or a commit's dots are near
        expect(chart.locator(".u-axis").first).to_be_visible()
    page.mouse.move(0, 0)
    # The working directory is the reports' repository.
    folder = Path(__file__).parents[2] / os.environ.get("KAGGLEOPS_SCREENSHOTS", tmp_path)
    kind = {390: "phone", 1280: "page", 2000: "wide"}[width]
    page.screenshot(path=folder / f"{name}-{kind}.png", full_page=width > 390)
    page.close()
    assert problems == []
    assert asked == [pages[name].as_uri()]
