"""Text of others, shown: on a terminal, as HTML, as Markdown, from a log."""

import sys
import unicodedata

import pytest
from markdown_it import MarkdownIt

from kaggleops import tags
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns.ui import END, Before, described, since
from kaggleops.printable import as_code, as_html, as_markdown, log_line, printable
from tests.hostile import HOSTILE, Page, unseen


def test_every_character_that_a_terminal_obeys_is_written() -> None:
    for code in range(sys.maxunicode + 1):
        shown = printable(chr(code))
        if chr(code) in "\u200c\u200d":
            assert shown == chr(code)
        elif unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert shown.startswith("\\")
            assert shown.isascii()
            assert shown.isprintable()
        else:
            assert shown == chr(code)


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Ünïcode, 日本語, emoji 👩‍🔬 and a\u00a0space", "C:\\folder", "[bold]", ""):
        assert printable(text) == text
    assert printable("two\nlines\tand a tab", lines=True) == "two\nlines\tand a tab"
    assert printable("two\nlines\r") == r"two\nlines\r"


def test_a_log_line_keeps_its_text_without_colours() -> None:
    assert log_line("\x1b[1;32mepoch 1\x1b[0m\tdone") == "epoch 1\tdone"
    assert log_line("10%|#\r20%|##") == "10%|#\n20%|##"
    assert log_line("\x1b]0;owned\x07\x1b[2Jx") == r"\x1b]0;owned\x07\x1b[2Jx"


def test_an_error_is_one_line_of_text() -> None:
    error = KaggleOpsError(f"reading {HOSTILE}", HOSTILE, "a\nb")
    assert str(error).isprintable()
    assert printable(HOSTILE) in str(error)


def test_html_shows_it() -> None:
    page = Page()
    page.feed(f'<p title="{as_html(HOSTILE)}">{as_html(HOSTILE)}</p>')
    assert page.tags == ["p"]
    assert page.text == printable(HOSTILE)
    assert dict(page.attributes)["title"] == printable(HOSTILE)


ONE_BY_ONE = [
    "*a*",
    "__a__",
    "~~a~~",
    "`a`",
    "``a`",
    "`",
    "a|b",
    r"a\|b",
    "\\",
    "a\\",
    "[a](https://evil.example)",
    "![a](b)",
    "<b>a</b>",
    "<!-- a",
    "https://evil.example",
    "www.evil.example",
    "HTTP://evil.example",
    "a@evil.example",
    "@octocat",
    "octo/cat#1",
    "#1",
    "GH-12",
    ":smile:",
    "$a$",
    "&lt;",
    "# a",
    "- a",
    "+ a",
    "1. a",
    "12) a",
    "> a",
    "---",
    "===",
    "    a",
    "\ta",
    "a\nb",
    "| a",
    "[a]: b",
    "0.5",
    "+0.5 [-1, 2] ± 3 (4)",
    "-",
    HOSTILE,
]


@pytest.mark.parametrize("text", ONE_BY_ONE)
@pytest.mark.parametrize("write", [as_markdown, as_code])
def test_markdown_shows_it_wherever_it_stands(text: str, write: object) -> None:
    assert callable(write)
    shown = write(text)
    blocks = (shown, f"### {shown}", f"> {shown}", f"- {shown}")
    table = f"| {shown} | b |\n|---|---|\n| {shown} | end |\n"
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = Page()
    page.feed(parser.render("\n\n".join([*blocks, table])))
    ours = {"p", "h3", "blockquote", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= {*ours, "code"}
    assert page.tags.count("td") == page.tags.count("th") == 2
    assert not page.attributes
    words = " ".join(printable(text).split())
    for element in ("p", "h3", "li", "th", "td"):
        assert " ".join(page.texts[element][0].split()) == words, element
    assert not page.linked


def test_the_note_on_a_runs_page_is_of_text_and_our_links() -> None:
    evil = "`![i](https://evil.example/i.png)" + HOSTILE
    told = {
        tags.COMMIT: "a" * 40,
        tags.REPOSITORY: "https://github.com/o/r)[l](https:evil.example",
        tags.BRANCH: "x`<img/src=x>|[l](https://evil.example)@octocat",
        **dict.fromkeys((tags.SUBJECT, tags.SETTINGS, tags.BACKEND, tags.ACCELERATOR), evil),
    }
    before = Before("[1](2)", {tags.COMMIT: evil, tags.SUBJECT: evil, tags.SETTINGS: "x](y)"})
    note = described(
        told,
        since(told, "1](2)", "b" * 32, before),
        notebook="javascript:alert(1)",
        place="gs://b/a) ![x](y)/artifacts",
    )
    assert not unseen(note)
    assert note.count(END) == 1
    tokens = MarkdownIt("commonmark", {"html": True}).parse(note)
    inline = [each for token in tokens for each in token.children or ()]
    links = [str(each.attrs["href"]) for each in inline if each.type == "link_open"]
    assert [each.type for each in inline if each.type == "image"] == []
    own = ("https://github.com/o/r", "#/", "https://console.cloud.google.com/")
    assert links
    assert all(link.startswith(own) for link in links), links
    assert {each.content for each in inline if each.type == "html_inline"} <= {"<code>", "</code>"}
