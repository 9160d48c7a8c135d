"""Text that others wrote, made fit to be shown: no character of it does anything but stand there.

What comes from a bucket, from git or from a platform passes through here on its way to a terminal,
a page, Markdown or a log. A terminal obeys what begins with ESC (clear the screen, change the
title, set the clipboard), marks of direction show a text in another order than it has, and markup
makes links and pictures.
"""

import re
import unicodedata
from html import escape

# Control, format, surrogate, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # within words of some languages, and within emoji

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")

_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|!~&$^=]")
_AT_THE_BEGINNING = re.compile(r"[-+.)](?=\s|$)|-{3}")
# GitHub links these in any text, escaped or not, but in code: mentions, issues, addresses, emoji.
_LINKED = re.compile(r"[@#|`]|://|www\.|\bGH-\d|:[\w+-]+:", re.IGNORECASE)


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text with each character that is none to look at written as Python writes it.

    So are line ends and tabs, unless it may have several `lines`.
    """
    if text.isprintable():
        return text
    kept = f"{_JOINERS}\n\t" if lines else _JOINERS
    return "".join(
        each if each in kept or unicodedata.category(each) not in _UNSEEN else ascii(each)[1:-1]
        for each in text
    )


def quoted(text: str) -> str:
    """Return a name or a value for an error: as Python writes it, and of 80 characters at most."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def log_line(line: str) -> str:
    """Return a line that a program has printed to a terminal, without its colours.

    A progress bar writes itself over and over after a carriage return: each state is a line here.
    """
    return printable(_COLOUR.sub("", line).replace("\r", "\n"), lines=True)


def as_html(text: str) -> str:
    """Return a text as HTML, for an element's content or a quoted attribute; it may have lines."""
    return escape(printable(text, lines=True))


def as_markdown(text: str) -> str:
    """Return a text as Markdown of one line, anywhere in it: also in a table."""
    text = printable(text)
    if _LINKED.search(text):
        return as_code(text)
    words = _MARKUP.sub(r"\\\g<0>", text.strip())
    start = len(words) - len(words.lstrip("0123456789"))  # of a list with numbers
    if _AT_THE_BEGINNING.match(words, start):
        words = f"{words[:start]}\\{words[start:]}"
    return words


def as_code(text: str) -> str:
    """Return a text as code in Markdown of one line, anywhere in it: also in a table."""
    text = printable(text)
    if text and text == text.strip() and "`" not in text and "|" not in text:
        return f"`{text}`"
    # An entity is never taken for markup, nor a bar for the end of a cell.
    plain = re.sub(r"[^\w ]|_", lambda found: f"&#{ord(found[0])};", text)
    return f"<code>{plain}</code>"


def counted(count: int, one: str = "file") -> str:
    """Return "1 file" or "N files", or as many of another word."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"
