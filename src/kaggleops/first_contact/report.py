"""The report of a trial: what can be attached to an issue."""

import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
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


def written(plan: Plan, lines: Sequence[Line], ended: str) -> Path:
    """Write the report of a trial into this machine's state folder, and return its file.

    `lines` is what came of it, `ended` how it ended.
    """
    name, prefix = name_and_prefix(plan.bucket)
    host = plan.bucket.partition("@")[2].partition("/")[0]
    names = {plan.bucket: "BUCKET", name: "BUCKET", prefix: "PREFIX", host: "HOST"}
    names |= {str(Path.home()): "HOME", **plan.names}
    hidden = [replace(each, seen=_without(each.seen, names)) for each in lines]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = state_folder() / "first-contact" / f"{plan.service}-{stamp}.md"
    write_private(file, _text(plan.service, hidden, _without(shown(ended), names)))
    return file


def _text(service: str, lines: Sequence[Line], ended: str) -> str:
    """Return a report in Markdown."""
    found = []
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    report = [f"# First contact with {service}, {when}", "", f"{here}; {', '.join(found)}", ""]
    report += ["| | | seen | assumed |", "|---|---|---|---|"]
    for line in lines:
        verdict = "**differs**" if line.verdict == "differs" else line.verdict
        seen, assumed = as_markdown(line.seen), as_markdown(line.assumed)
        report.append(f"| {line.id} | {verdict} | {seen} | {assumed} |")
    if differs := [each for each in lines if each.verdict == "differs"]:
        report += ["", "What would break:", ""]
        report += [f"- {line.id}: otherwise {line.breaks}." for line in differs]
    return "\n".join([*report, "", f"Left behind: {as_markdown(ended)}", ""])


def _without(said: str, names: Mapping[str, str]) -> str:
    """Return a text with email addresses hidden, and with names replaced, the longest first."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        said = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", names[name], said)
    return _EMAIL.sub("EMAIL", said)
