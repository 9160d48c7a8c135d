"""A comparison as Markdown: it fits into a comment on GitHub, and stays Markdown."""

import pytest
from markdown_it import MarkdownIt

from kaggleops.git.commits import Between
from kaggleops.reports.comparison import Comparison
from kaggleops.reports.comparison_text import to_markdown
from kaggleops.reports.selection import Side

MOST = 65_536
"""Characters of a comment: "body is too long (maximum is 65536 characters)", says GitHub's API."""


def compared(*diffs: str, params: int = 0, files: int = 1) -> Comparison:
    """Return a comparison whose later sides' code differs by these."""
    letters = "abcdef"[: len(diffs) + 1]
    return Comparison(
        sides=tuple(Side(f"side-{each}", each * 40, ()) for each in letters),
        params={f"param-{number}": ("x" * 50,) * len(letters) for number in range(params)},
        metrics=(),
        data={},
        environment={},
        code=tuple(
            Between((("1" * 40, "Add it"),), tuple((f"{n}.py", 1, 0) for n in range(files)), each)
            for each in diffs
        ),
        notes=("A note.",),
    )


def added(lines: int, text: str = "value = 1") -> str:
    return "@@ -0,0 @@\n" + "\n".join(f"+{text}" for _ in range(lines))


@pytest.mark.parametrize(
    "comparison",
    [
        compared(added(20_000)),
        compared(added(20_000, "```"), added(20_000, "````"), added(3)),
        compared(added(20_000), params=400),
        compared(added(1, "x" * 100_000), added(20_000), files=500),
    ],
    ids=["one", "three with fences of their own", "many params", "a long line"],
)
def test_however_much_differs_it_fits_into_a_comment(comparison: Comparison) -> None:
    text = to_markdown(comparison)
    assert len(text) < MOST
    tokens = MarkdownIt().enable("table").parse(text)
    fences = [token for token in tokens if token.type == "fence"]
    html = "".join(token.content for token in tokens if token.type == "html_block")
    assert html.count("<details>") == html.count("</details>") == len(comparison.code)
    for fence, code in zip(fences, comparison.code, strict=True):
        assert code is not None
        shown = fence.content.rstrip("\n")
        assert fence.info == "diff"
        assert f"{code.diff}\n".startswith(f"{shown}\n")  # whole lines
        left_out = code.diff.count("\n") - shown.count("\n")
        assert not left_out or f"… and {left_out} more lines: `git diff aaaaaaaaaa " in text
    assert "A note." in tokens[-3].content  # and is no part of what is folded


def test_what_fits_is_whole() -> None:
    text = to_markdown(compared(added(3), added(4)))
    assert "more lines" not in text
    assert text.count("+value = 1") == 7
    assert "… and 20 more" in to_markdown(compared(added(3), files=50))
