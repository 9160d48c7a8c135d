"""Text that others wrote, made fit to be shown: no character of it does anything but stand there.

A terminal obeys what begins with ESC (clear the screen, change the title, set the clipboard), and
marks of direction show a text in another order than it has.
"""

import unicodedata

_UNSEEN = {
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
}  # control, format, surrogate, line and paragraph separators
_JOINERS = "\u200c\u200d"  # within words of some languages, and within emoji


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text with each character that is none to look at written as Python writes it.

    Args:
        text: from anywhere.
        lines: whether it may have several, and tabs; else they are written as `\n` and `\t`.
    """
    if text.isprintable():
        return text
    kept = f"{_JOINERS}\n\t" if lines else _JOINERS
    return "".join(
        each if each in kept or unicodedata.category(each) not in _UNSEEN else ascii(each)[1:-1]
        for each in text
    )
