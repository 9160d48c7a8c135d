"""A text that does what it can to whatever shows it, and what finds out whether it did."""

import re
import unicodedata
from collections import defaultdict
from html.parser import HTMLParser

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\x1b]52;c;b3du\x1b\\\x9b31m\x08\r\u202eevil\u2066\u200b"
    "[bold red]x[/] [link=https://evil.example]y[/link] :smile: "
    "<img src=x onerror=alert(1)></td></pre><script>alert(1)</script> "
    "![i](https://evil.example/i.png) [l](https://evil.example) www.evil.example "
    "@octocat #1 `code` a|b *c* <!-- "
)

_AS_LINKS = re.compile(r"@octocat|@evil|(?<!&)#1|://|www\.|GH-12|:smile:", re.IGNORECASE)


def unseen(text: str) -> set[str]:
    """Return the characters of a text that are none to look at, but for ends of lines and tabs."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {each for each in text if unicodedata.category(each) in kinds} - {"\n", "\t"}


class Page(HTMLParser):
    """What is on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.texts: dict[str, list[str]] = defaultdict(list)
        """The texts of each kind of element."""
        self.linked: list[str] = []
        """What GitHub would make a link, a mention or a picture of: it stands outside of code."""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.texts[tag].append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_comment(self, data: str) -> None:
        self.tags.append("!--")

    def handle_data(self, data: str) -> None:
        self.text += data
        for tag in self._open:
            self.texts[tag][-1] += data
        if not {"code", "pre"} & set(self._open):
            self.linked += _AS_LINKS.findall(data)
