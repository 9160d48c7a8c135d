"""What stands at the top of a run's page."""

import pytest

from kaggleops.mlruns.ui import (
    END,
    Before,
    described,
    since,
    with_link,
    with_note,
    with_section,
    with_sentences,
)
from kaggleops.tags import (
    ACCELERATOR,
    BACKEND,
    BRANCH,
    COMMIT,
    REPOSITORY,
    SETTINGS,
    SUBJECT,
    SWEEP,
    UNCOMMITTED,
)

SHA, BEFORE = "a" * 40, "b" * 40
GITHUB = "https://github.com/ada/tweets"
OURS = described({COMMIT: SHA})


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, "Commit `aaaaaaaaaa`."),
        (
            {
                REPOSITORY: "git@github.com:ada/tweets.git",
                SUBJECT: "Learn *faster*",
                BRANCH: "main",
                SETTINGS: "fold=0 model=tiny",
                BACKEND: "kaggle",
                ACCELERATOR: "Tesla T4",
            },
            f"Commit [`aaaaaaaaaa`]({GITHUB}/commit/{SHA}) “Learn \\*faster\\*” on `main`, "
            "with `fold=0 model=tiny`, on Kaggle (Tesla T4).",
        ),
        (
            {UNCOMMITTED: "see it", BACKEND: "local", ACCELERATOR: "none"},
            "Commit `aaaaaaaaaa`, with changes that are not in the commit, on a machine of your "
            "own.",
        ),
        (
            {SWEEP: "{}", BACKEND: "kaggle,runpod"},
            "A sweep over commit `aaaaaaaaaa`, on Kaggle or RunPod.",
        ),
    ],
)
def test_it_begins_with_what_the_run_is(tags: dict[str, str], expected: str) -> None:
    assert described({COMMIT: SHA, **tags}) == f"{expected}\n\n{END}"


RUN = {COMMIT: SHA, BRANCH: "main", SETTINGS: "fold=0"}
PAGE = "#/experiments/7/runs/2?workflowType=machine_learning"
THERE = f"[the run before on `main`]({PAGE})"
SIDE = "[side by side](#/compare-runs?runs=%5B%222%22%2C%221%22%5D&experiments=%5B%227%22%5D"
SIDE += "&workflowType=machine_learning)"


@pytest.mark.parametrize(
    ("tags", "before", "expected"),
    [
        (
            {REPOSITORY: f"{GITHUB}.git"},
            {COMMIT: BEFORE, SUBJECT: "Start", SETTINGS: "fold=0"},
            f"Since {THERE}, of `bbbbbbbbbb` “Start”: "
            f"[what changed]({GITHUB}/compare/{BEFORE}%2E%2E%2E{SHA}) · {SIDE}",
        ),
        (
            {},
            {COMMIT: BEFORE, SETTINGS: "fold=1"},
            f"Since {THERE}, of `bbbbbbbbbb` with `fold=1`: `git diff bbbbbbbbbb aaaaaaaaaa` · "
            f"{SIDE}",
        ),
        (
            {},
            {COMMIT: SHA},
            f"Since {THERE}, of the same commit with no settings of its own: {SIDE}",
        ),
    ],
)
def test_it_says_what_changed_since_the_run_before(
    tags: dict[str, str], before: dict[str, str], expected: str
) -> None:
    assert since({**RUN, **tags}, "7", "1", Before("2", before)) == expected


def test_once_it_is_over_it_says_what_it_came_to() -> None:
    before = Before("2", {COMMIT: SHA, SETTINGS: "fold=0"})
    beside = since(RUN, "7", "1", before, "**f1 0.7**", "0.1000 better than")
    assert beside == (
        f"**f1 0.7**, 0.1000 better than {THERE}, of the same commit (one run each: no telling): "
        f"{SIDE}"
    )
    assert since(RUN, "7", "1", before, "**f1 0.7**").startswith(
        "**f1 0.7**. Since [the run before"
    )
    assert since(RUN, "7", "1", None, "**f1 0.7**") == "**f1 0.7**"
    assert since(RUN, "7", "1", None) == ""
    begun = with_note(described(RUN, since(RUN, "7", "1", before), "https://n/x"), "mine")
    over = described(RUN, beside, "https://n/x") + "\n\nmine"
    assert with_sentences(begun, RUN, beside) == over
    assert with_sentences(over, RUN, beside) == over
    assert with_sentences(OURS, {COMMIT: SHA}, "**f1 0.7**").startswith(
        "Commit `aaaaaaaaaa`.\n**f1 0.7**\n\n[//]"
    )


def test_it_links_where_the_run_is_and_what_it_left() -> None:
    told = described({COMMIT: SHA}, "Since then.", "https://n/x", "gs://b/a b/artifacts")
    artifacts = "https://console.cloud.google.com/storage/browser/b/a%20b/artifacts"
    assert told == (
        "Commit `aaaaaaaaaa`.\nSince then. · "
        f"[notebook](https://n/x) · [artifacts]({artifacts})\n\n{END}"
    )
    assert described({COMMIT: SHA}, place="/folder/artifacts") == OURS


def test_the_machine_is_said_once_it_is_known_and_the_rest_stays() -> None:
    told = with_note(described({COMMIT: SHA}, "Since then.", "https://n/x"), "mine")
    told = with_section(told, "legs", "two legs")
    now = with_sentences(told, {COMMIT: SHA, BACKEND: "kaggle", ACCELERATOR: "Tesla T4"})
    assert now == told.replace("aaaaaaaaaa`.", "aaaaaaaaaa`, on Kaggle (Tesla T4).")
    for other in (f"Commit `aaaaaaaaaa` on `main` · [notebook](https://n/x)\n\n{END}", "mine"):
        assert with_sentences(other, {COMMIT: SHA}) == other


def test_a_note_is_kept_below_it_whoever_writes_first() -> None:
    ours = OURS
    noted = with_note(ours, "mine")
    assert noted == f"{ours}\n\nmine"
    assert with_note(noted, "mine, again") == f"{ours}\n\nmine, again"
    # In the UI people edit the whole.
    edited = noted.replace("mine", "edited")
    assert with_note(noted, edited) == edited
    assert with_note(noted, "") == ours
    assert with_note("only mine", "other") == "other"


def test_another_link_stands_beside_ours_and_above_the_note() -> None:
    noted = with_note(OURS, "mine")
    linked = with_link(noted, "comparison", "#/a")
    assert linked == f"Commit `aaaaaaaaaa`.\n[comparison](#/a)\n\n{END}\n\nmine"
    several = with_link(described({COMMIT: SHA}, "Since x", "https://n/x"), "comparison", "#/a")
    assert "\nSince x · [notebook](https://n/x) · [comparison](#/a)\n\n" in several
    earlier = f"Commit `aaaaaaaaaa` · changes since `b`, the run before\n\n{END}"
    assert with_link(earlier, "comparison", "#/a") == earlier.replace(
        "before\n", "before · [comparison](#/a)\n"
    )
    assert with_link(linked, "comparison", "#/b") == linked.replace("#/a", "#/b")
    assert with_link("only mine", "comparison", "#/a").endswith(END)


def test_sections_of_ours_stand_between_the_links_and_what_people_write() -> None:
    noted = with_note(OURS, "mine")
    both = with_section(with_section(noted, "sweep", "| a |\n|---|\n| 1 |"), "legs", "two legs")
    assert both == (
        "Commit `aaaaaaaaaa`.\n\n[//]: # (sweep)\n\n| a |\n|---|\n| 1 |\n\n"
        f"[//]: # (legs)\n\ntwo legs\n\n{END}\n\nmine"
    )
    assert with_section(both, "legs", "two legs") == both
    again = with_section(both, "sweep", "none yet")
    assert again == both.replace("| a |\n|---|\n| 1 |", "none yet")
    linked = with_link(again, "comparison", "#/a")
    assert linked.startswith("Commit `aaaaaaaaaa`.\n[comparison](#/a)\n\n[//]: # (sweep)")
    assert with_section(with_section(both, "sweep", ""), "legs", "") == noted
    assert with_section("mine", "legs", "two") == f"[//]: # (legs)\n\ntwo\n\n{END}\n\nmine"
