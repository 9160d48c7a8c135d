"""The report of a trial: what can be attached to an issue."""

import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kaggleops.bucket.location import name_and_prefix
from kaggleops.first_contact.assumption import Line, shown
from kaggleops.first_contact.services import Plan
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.printable import as_markdown

_PACKAGES = (
    *("kaggleops", "mlflow-skinny", "google-cloud-storage", "boto3"),
    *("kaggle", "docker", "requests"),
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_MARKS = {"ok": "ok", "differs": "**differs**", "not checked": "not checked"}


def written(plan: Plan, lines: Sequence[Line], ended: str) -> Path:
    """Write the report of a trial into this machine's state folder, and return its file.

    Args:
        plan: what was tried.
        lines: what came of it.
        ended: how it ended.
    """
    name, prefix = name_and_prefix(plan.bucket)
    host = plan.bucket.partition("@")[2].partition("/")[0]
    names = {plan.bucket: "BUCKET", name: "BUCKET", prefix: "PREFIX", host: "HOST"}
    names |= {str(Path.home()): "HOME", **plan.names}
    hidden = [replace(each, seen=without(each.seen, names)) for each in lines]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = state_folder() / "first-contact" / f"{plan.service}-{stamp}.md"
    write_private(file, text(plan.service, hidden, without(shown(ended), names)))
    return file


def text(service: str, lines: Sequence[Line], ended: str) -> str:
    """Return a report in Markdown."""
    found = [f"{name} {each}" for name in _PACKAGES if (each := _version(name))]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    rows = [
        f"| {line.id} | {_MARKS[line.verdict]} | {as_markdown(line.seen)} "
        f"| {as_markdown(line.assumed)} |"
        for line in lines
    ]
    differs = [
        f"- {line.id}: otherwise {line.breaks}." for line in lines if line.verdict == "differs"
    ]
    return "\n".join(
        [
            f"# First contact with {service}, {when}",
            "",
            f"{here}; {', '.join(found)}",
            "",
            "| | | seen | assumed |",
            "|---|---|---|---|",
            *rows,
            "",
            *(["What would break:", "", *differs, ""] if differs else []),
            f"Left behind: {as_markdown(ended)}",
            "",
        ]
    )


def without(said: str, names: Mapping[str, str]) -> str:
    """Return a text with email addresses hidden, and with names replaced, the longest first."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        said = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", names[name], said)
    return _EMAIL.sub("EMAIL", said)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
