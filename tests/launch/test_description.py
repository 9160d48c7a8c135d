"""What stands at the top of a run's page."""

import pytest

from kaggleops.mlruns.ui import END, Origins, with_link, with_note

SHA, BEFORE = "a" * 40, "b" * 40
GITHUB = "https://github.com/ada/tweets"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        (Origins(SHA), "Commit `aaaaaaaaaa`"),
        (
            Origins(SHA, branch="main", origin="git@github.com:ada/tweets.git"),
            f"[Commit `aaaaaaaaaa`]({GITHUB}/commit/{SHA}) on `main`",
        ),
        (
            Origins(SHA, origin=f"{GITHUB}.git", previous_sha=BEFORE),
            f"[Commit `aaaaaaaaaa`]({GITHUB}/commit/{SHA}) · [changes since `bbbbbbbbbb`, the run "
            f"before]({GITHUB}/compare/{BEFORE}...{SHA})",
        ),
        (Origins(SHA, previous_sha=SHA), "Commit `aaaaaaaaaa` · the commit of the run before"),
        (
            Origins(SHA, notebook="https://n/x", artifacts="gs://b/a b/artifacts"),
            "Commit `aaaaaaaaaa` · [notebook](https://n/x) · "
            "[artifacts](https://console.cloud.google.com/storage/browser/b/a%20b/artifacts)",
        ),
        (Origins(SHA, artifacts="/folder/artifacts"), "Commit `aaaaaaaaaa`"),
    ],
)
def test_it_links_the_commit_the_difference_and_where_it_ran(
    origins: Origins, expected: str
) -> None:
    assert origins.describe() == f"{expected}\n\n{END}"


def test_a_note_is_kept_below_it_whoever_writes_first() -> None:
    ours = Origins(SHA).describe()
    noted = with_note(ours, "mine")
    assert noted == f"{ours}\n\nmine"
    assert with_note(noted, "mine, again") == f"{ours}\n\nmine, again"
    # In the UI people edit the whole.
    edited = noted.replace("mine", "edited")
    assert with_note(noted, edited) == edited
    assert with_note(noted, "") == ours
    assert with_note("only mine", "other") == "other"


def test_another_link_stands_beside_ours_and_above_the_note() -> None:
    noted = with_note(Origins(SHA).describe(), "mine")
    linked = with_link(noted, "comparison", "#/a")
    assert linked == f"Commit `aaaaaaaaaa` · [comparison](#/a)\n\n{END}\n\nmine"
    assert with_link(linked, "comparison", "#/b") == linked.replace("#/a", "#/b")
    assert with_link("only mine", "comparison", "#/a").endswith(END)
