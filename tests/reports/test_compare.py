"""`kaggleops compare`: what changed between two commits, and did it help?"""

import math
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import sqlalchemy as sa
from IPython.core.interactiveshell import InteractiveShell

from kaggleops.bucket import open_bucket
from kaggleops.errors import UsageError
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.reports.comparison import Comparison, compare
from kaggleops.reports.comparison_text import to_markdown
from kaggleops.reports.evidence import reader
from kaggleops.reports.history import History
from kaggleops.reports.pages import comparison_page as to_page
from kaggleops.reports.selection import Selector
from tests.command import kaggleops, kaggleops_here
from tests.reports.lab import Lab

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    mlflow.set_tracking_uri(None)


class Reader:
    """Who asks, with the repository at hand or without."""

    def __init__(self, lab: Lab, folder: Path, empty_index: Path) -> None:
        self._lab = lab
        self._folder = folder
        database = folder / "compare.db"
        database.write_bytes(empty_index.read_bytes())
        self._url = f"sqlite:///{database}"
        self.history = History(
            sa.create_engine(self._url), lambda: EntityStore(open_bucket(str(lab.bucket)))
        )

    def selector(self, *, repository: bool = True, **options: str) -> Selector:
        store = EntityStore(open_bucket(str(self._lab.bucket)))
        index = Index(self._url, store)
        assert index.refresh().problems == {}
        index.close()
        code = self._lab.repository.folder if repository else None
        return Selector(self.history, code, **options)

    def compare(self, *words: str, repository: bool = True, **options: str) -> Comparison:
        selector = self.selector(repository=repository, **options)
        sides = [selector.find(word) for word in words]
        code = self._lab.repository.folder if repository else None
        rows = reader(open_bucket(str(self._lab.bucket)))
        return compare(sides, code, metrics=["jaccard"], rows=rows)


@pytest.fixture
def asking(lab: Lab, tmp_path: Path, empty_index: Path) -> Reader:
    return Reader(lab, tmp_path, empty_index)


def test_runs_are_found_by_whatever_people_call_them(lab: Lab, asking: Reader) -> None:
    selector = asking.selector(metric="jaccard")
    for word, sha in (
        (lab.base, lab.base),
        (lab.base[:7], lab.base),
        ("v1", lab.base),
        ("idea", lab.better),
        ("HEAD", lab.worse),
        ("main", lab.worse),
    ):
        side = selector.find(word)
        assert side.sha == sha, word
        assert {run.id for run in side.runs} == set(lab.runs[sha]), word
    one = lab.runs[lab.better][1]
    for word in (one, one[:10], f"{lab.better[:4]}-1"):
        assert [run.id for run in selector.find(word).runs] == [one], word
    assert [run.id for run in selector.find("best").runs] == [lab.runs[lab.better][2]]
    lowest = asking.selector(metric="loss").find("best")
    assert lowest.runs[0].metrics["loss"] == pytest.approx(1 / 3)
    before = selector.before(selector.find("HEAD"))
    assert before.sha == lab.better  # as on the leaderboard: through the merge


def test_a_word_that_means_nothing_or_too_much_is_one_line_with_what_there_is(
    lab: Lab, asking: Reader
) -> None:
    lab.log(lab.base, "twice", {}, 0.1)
    lab.log(lab.better, "twice", {}, 0.1)
    lab.log(lab.merged, "unfinished", {}, 0.1, status="FAILED")
    lab.log(lab.merged, "digits", {}, 0.1, experiment="digits")
    selector = asking.selector()
    for word, message in (
        ("idee", "Did you mean|Name a commit"),
        ("twice", f"it matches 2 runs: .* of {lab.better[:10]}"),
        (lab.empty, f"commit {lab.empty[:10]} has none. The nearest with runs is"),
        ("unfinished", "none of its runs finished .FAILED.. Run it again, or"),
    ):
        with pytest.raises(UsageError, match=message):
            selector.find(word)
    # Without a metric, by the score of the experiment used last, or of the one that is named.
    assert selector.find("best").runs[0].name == "digits"
    assert asking.selector(experiment="tweets").find("best").sha == lab.better
    with pytest.raises(UsageError, match="Did you mean tweets"):
        asking.selector(experiment="twets")
    sides = [selector.find(lab.runs[lab.base][0]), selector.find("digits")]
    with pytest.raises(UsageError, match=r"different tasks: .* has tweets; digits .* has digits"):
        compare(sides, None)
    sides = [selector.find("v1"), selector.find("idea")]
    with pytest.raises(UsageError, match="accuracy is not on every side"):
        compare(sides, None, metrics=["accuracy"])


def test_what_many_runs_have_in_common_is_in_memory_once(lab: Lab, asking: Reader) -> None:
    asking.selector()
    runs = asking.history.scored(None, ["jaccard"])
    texts = [each for run in runs for each in (*run.params, *run.params.values(), *run.settings)]
    assert len(texts) > 2 * len(set(texts))
    assert len({id(each) for each in texts}) == len(set(texts))


def test_why_nothing_is_chosen_to_compare_with_is_true(lab: Lab, asking: Reader) -> None:
    lab.log("", "of no commit", {}, 0.9)
    selector = asking.selector(metric="jaccard")
    with pytest.raises(UsageError, match="compare best with: it has no commit"):
        selector.before(selector.find("best"))
    elsewhere = asking.selector(repository=False)
    with pytest.raises(UsageError, match="there is no repository here"):
        elsewhere.before(elsewhere.find(lab.better))
    lab.log("f" * 40, "of another repository", {}, 0.8)
    selector = asking.selector(metric="jaccard")
    with pytest.raises(UsageError, match="the repository here lacks its commit"):
        selector.before(selector.find("of another repository"))


def test_a_name_of_runs_and_of_a_commit_is_not_guessed_at(lab: Lab, asking: Reader) -> None:
    run_id = lab.log(lab.base, "main", {}, 0.1)
    lab.log(lab.better, "main", {}, 0.1, experiment="other")
    lab.log(lab.base, "v1", {}, 0.1)
    only = lab.log(lab.merged, "release", {}, 0.1)
    lab.repository.git("tag", "release", lab.merged)
    selector = asking.selector(experiment="tweets")
    message = f"1 run: {run_id} of {lab.base[:10]}; and 1 commit: {lab.worse[:10]}"
    with pytest.raises(UsageError, match=message):
        selector.find("main")
    with pytest.raises(UsageError, match=f"; {run_id} of .*and 1 commit"):
        asking.selector().find("main")
    with pytest.raises(UsageError, match="by its id, or a commit by its hash"):
        selector.find("v1")  # one of that commit's runs, and the others too
    assert [run.id for run in selector.find("release").runs] == [only]  # means the same
    assert [run.id for run in selector.find(run_id).runs] == [run_id]
    found = compare([selector.find(lab.worse), selector.find("HEAD")], None)
    assert any("are the same runs" in note for note in found.notes)


def test_folds_are_paired_and_the_verdict_says_whether_it_helped(lab: Lab, asking: Reader) -> None:
    found = asking.compare("v1", "idea", "HEAD")
    [line] = found.metrics
    assert [round(side.mean, 4) for side in line.sides if side] == [0.62, 0.6667, 0.4233]
    better = line.differences[0]
    assert better is not None
    assert (better.how, better.folds, better.seeds) == ("by fold", 3, (1, 1))
    assert better.mean == pytest.approx(0.14 / 3)
    assert [line.verdict(0), line.verdict(1)] == ["better", "worse"]
    assert found.params == {"lr": ("0.1", "0.2", "9")}
    first, second = found.code
    assert first is not None
    assert [subject for _, subject in first.commits] == ["Learn faster"]
    assert first.files == (("src/train.py", 1, 1),)  # and not the documentation
    assert "+lr = 0.2" in first.diff
    assert second is not None
    assert {subject for _, subject in second.commits} == {
        "Learn faster", "Rename a file", "Merge idea", "Learn much faster",
    }  # fmt: skip
    assert ("old_name.py → new_name.py", 0, 0) in second.files


def test_folds_say_more_than_the_rows_that_both_have_predicted(lab: Lab, asking: Reader) -> None:
    for commit, shift in ((lab.base, 0.0), (lab.better, 0.01)):
        for fold, run_id in enumerate(lab.runs[commit]):
            scores = {f"{fold}-{row}": 0.5 + shift + 0.01 * (row % 3) for row in range(20)}
            lab.log_rows(run_id, scores)
    [line] = asking.compare("v1", "idea").metrics
    [found] = line.differences
    assert found is not None
    assert (found.how, line.verdict(0)) == ("by fold", "better")
    assert found.mean == pytest.approx(0.14 / 3)


def test_the_newest_run_of_a_fold_counts_and_other_settings_are_named(
    lab: Lab, asking: Reader
) -> None:
    again = lab.log(lab.base, "again", {"lr": "0.1", "fold": "1"}, 0.63, accelerator="Tesla T4")
    lab.log(lab.better, "other settings", {"lr": "0.3", "fold": "0"}, math.nan)
    selector = asking.selector(repository=False)
    sides = [selector.find(lab.base[:12]), selector.find(lab.better[:12])]
    found = compare(sides, None, metrics=["jaccard"])
    first, second = found.sides
    assert again in {run.id for run in first.runs}
    assert len(first.runs) == 3
    assert [run.name for run in second.runs] == ["other settings"]
    assert found.environment == {"accelerator": ("Tesla T4", "")}
    assert found.notes[0] == (
        f"The sides have no settings in common: {first.title} has lr=0.1; "
        f"{second.title} has lr=0.3."
        " Run one with the settings of the other."
    )
    assert found.notes[2].endswith(
        "jaccard of " + second.title + " with other settings: lr=0.2 (0.6667)."
    )
    assert any("There is no repository here" in note for note in found.notes)
    assert "nan" in to_markdown(found)


def test_the_command_in_all_its_forms(lab: Lab, tmp_path: Path) -> None:
    here = {"cwd": lab.repository.folder, "KAGGLEOPS_HOME": str(tmp_path / "home")}
    bucket = ("--bucket", lab.bucket, "--experiment", "tweets")
    page = tmp_path / "page.html"
    done = kaggleops("compare", "v1", "idea", *bucket, "--html", page, "--log", **here)
    assert done.code == 0, done.errors
    assert "over 3 folds ▲" in done.output
    assert "Learn faster" in done.output
    text = page.read_text()
    assert "+lr = 0.2" in text
    assert "default-src 'none'" in text  # nothing is asked of a network
    client = mlflow.MlflowClient(lab.tracking_uri)
    newest = client.get_run(lab.runs[lab.better][-1])
    home = newest.info.experiment_id
    link = f"#/experiments/{home}/runs/{newest.info.run_id}/artifacts/comparison.html"
    link += "?workflowType=machine_learning"
    assert f"[comparison]({link})" in newest.data.tags["mlflow.note.content"]
    assert mlflow.artifacts.load_text(f"{newest.info.artifact_uri}/comparison.html") == text
    below = {**here, "cwd": lab.repository.folder / "src"}
    done = kaggleops_here("compare", "idea", *bucket, "--json", "--path", "../docs", **below)
    assert done.code == 0, done.errors
    [code] = done.json["code"]
    assert [each["file"] for each in code["files"]] == ["docs/page"]
    assert [side["commit"] for side in done.json["sides"]] == [lab.base, lab.better]
    done = kaggleops_here("compare", "v1", "idea", *bucket, "--markdown", **here)
    assert done.output.startswith(f"### v1 ({lab.base[:10]}) and idea")
    assert "```diff" in done.output
    done = kaggleops_here("compare", "v1", "nobody", *bucket, **here)
    assert done.code == 2
    assert "no commit or run has this name" in done.error


def test_one_cell_of_a_notebook_shows_it_all(
    lab: Lab,
    tmp_path: Path,
    empty_index: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "index.db").write_bytes(empty_index.read_bytes())
    monkeypatch.setenv("KAGGLEOPS_INDEX", f"sqlite:///{tmp_path / 'index.db'}")
    monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(lab.repository.folder)
    shell = InteractiveShell()
    shell.run_cell(f"import kaggleops; bucket = {str(lab.bucket)!r}")
    found = shell.run_cell("kaggleops.compare('v1', 'idea', bucket=bucket)").result
    assert repr(found) == to_markdown(found.comparison)
    assert found.table.loc["jaccard", "difference"].endswith("over 3 folds ▲")
    assert found.to_dict()["params"] == {"lr": ["0.1", "0.2"]}
    shown = shell.display_formatter.format(found)[0]["text/html"]
    [page] = re.findall('<iframe sandbox="allow-scripts"[^>]* srcdoc="([^"]*)"', shown)
    assert unescape(page) == found.page
    assert "+lr = 0.2" in found.page
    capsys.readouterr()
    shell.run_cell("kaggleops.compare('v1', 'nobody', bucket=bucket)")
    said = capsys.readouterr().out.strip()
    assert said.startswith("error: looking for 'nobody': no commit or run has this name.")
    assert "\n" not in said


# A call a place from here would take a hundred times as long.
_PLACE_THAT_SAYS = """
(chart, named) => {
  const over = chart.querySelector(".u-over"), box = over.getBoundingClientRect();
  for (let x = box.left + 2; x < box.right; x += 10)
    for (let y = box.top + 4; y < box.bottom; y += 14) {
      const at = { clientX: x, clientY: y, movementX: 1, bubbles: true };
      over.dispatchEvent(new MouseEvent("mousemove", at));
      if (chart.querySelector(".readout").textContent.endsWith(named)) return [x, y];
    }
}
"""


@pytest.mark.browser
def test_the_page_shows_its_curves_and_asks_nobody_for_anything(
    lab: Lab, asking: Reader, tmp_path: Path, page: "Page"
) -> None:
    from playwright.sync_api import expect

    odd = lab.log(lab.better, "odd", {"lr": "<b>`x`|</b>", "fold": "0"}, 0.1)
    selector = asking.selector()
    found = compare([selector.find("v1"), selector.find(odd)], lab.repository.folder)
    file = tmp_path / "page.html"
    file.write_text(to_page(found, asking.history))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    score, loss = page.locator("[data-chart]").all()
    for chart, named in ((score, "odd · fold 0 · seed 1 · 0.1"), (loss, "step 1 · 0.5")):
        expect(chart.locator("canvas")).to_be_visible()
        chart.scroll_into_view_if_needed()
        chart.locator(".u-over").hover()
        across, down = chart.evaluate(_PLACE_THAT_SAYS, named)
        page.mouse.move(0, 0)
        page.mouse.move(across, down)
        expect(chart.locator(".readout")).to_have_text(re.compile(f"{re.escape(named)}$"))
    lines = page.locator("tr", has_text="src/train.py").inner_text().split()
    assert lines == ["src/train.py", "1", "1"]
    assert page.get_by_text("<b>`x`|</b>").is_visible()
    assert asked == [file.as_uri()]
    assert "&#60;b&#62;&#96;x&#96;&#124;" in to_markdown(found)


def test_charts_beyond_what_a_page_can_show_are_named(lab: Lab, asking: Reader) -> None:
    found = asking.compare("v1", "idea")
    names = [f"score-{number:02}" for number in range(27)]
    for run in (run for side in found.sides for run in side.runs):
        run.metrics.update(dict.fromkeys(names, 0.5))
    text = to_page(compare(found.sides, None, metrics=names), asking.history)
    assert text.count('data-chart="scores ') == 24
    assert "3 more, without a chart: score-24, score-25, score-26" in text
