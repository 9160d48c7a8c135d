"""What MLflow's UI shows of a commit: the top of a run's page, and links to its pages.

MLflow shows the tag `mlflow.note.content` there, as Markdown. It is also where people write, so
what they write is kept below ours, whoever writes first.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from kaggleops.bucket.location import console_url
from kaggleops.git.addresses import web_address, without_credentials
from kaggleops.printable import as_code, as_markdown
from kaggleops.redaction import redacted
from kaggleops.tags import (
    ACCELERATOR,
    BACKEND,
    BRANCH,
    COMMIT,
    REPOSITORY,
    SETTINGS,
    SHORT_COMMIT,
    SUBJECT,
    SWEEP,
    UNCOMMITTED,
)

_ADDRESS = ":/?#[]@!$&'*+,;=%~"

END = "[//]: # (What is above is kaggleops'. Your own note goes below.)"
"""A comment in Markdown: nobody sees it on the page."""


@dataclass(frozen=True)
class Before:
    """The run that came before a run, on the same branch if that is known."""

    run_id: str
    tags: Mapping[str, str]


def sentence(tags: Mapping[str, str]) -> str:
    """Return in one sentence what a run is, as its tags tell."""
    web = web_address(tags.get(REPOSITORY, ""))
    sha = tags[COMMIT]
    start = "A sweep over commit " if SWEEP in tags else "Commit "
    said = start + _link(as_code(sha[:10]), f"{web}/commit/{sha}" if web else "")
    if subject := tags.get(SUBJECT):
        said += f" “{as_markdown(subject)}”"
    if branch := tags.get(BRANCH):
        said += f" on {as_code(branch)}"
    if settings := tags.get(SETTINGS):
        said += f", with {as_code(_short(settings))}"
    if UNCOMMITTED in tags:
        said += ", with changes that are not in the commit"
    if backend := tags.get(BACKEND):
        names = " or ".join(_MACHINES.get(each, each.capitalize()) for each in backend.split(","))
        what = tags.get(ACCELERATOR, "none")
        said += f", on {as_markdown(names)}" + (f" ({as_markdown(what)})" * (what != "none"))
    return f"{said}."


_MACHINES = {
    "local": "a machine of your own",
    "manual": "a machine that is started by hand",
    "docker": "a container",
    "kaggle-image": "Kaggle's image",
    "runpod": "RunPod",
    "skypilot": "SkyPilot",
}
"""What kinds of machines are called in a sentence, where that is not their name with a capital."""


def _short(settings: str) -> str:
    return settings if len(settings) <= _LONGEST else f"{settings[:_LONGEST]}…"


_LONGEST = 200  # characters of what was set for a run


def since(
    tags: Mapping[str, str],
    experiment_id: str,
    run_id: str,
    before: Before | None,
    score: str = "",
    how: str = "",
) -> str:
    """Return what a run came to, and what changed since the run before, with links.

    Args:
        tags: the run's.
        experiment_id: its experiment's; the run before is one of it, too.
        run_id: its own.
        before: the run before, if there was one.
        score: what the run came to, if it is over.
        how: how that is beside the run before: "0.0040 better than"; "" if they are not to be
            compared.
    """
    if before is None:
        return score
    on = f" on {as_code(tags[BRANCH])}" if tags.get(BRANCH) else ""
    there = before.tags[COMMIT]
    if same := there == tags[COMMIT]:
        of = "of the same commit"
    else:
        subject = before.tags.get(SUBJECT)
        of = f"of {as_code(there[:10])}" + (f" “{as_markdown(subject)}”" if subject else "")
    settings = before.tags.get(SETTINGS, "")
    if settings != tags.get(SETTINGS, ""):
        of += f" with {as_code(_short(settings)) if settings else 'no settings of its own'}"
    run = _link(f"the run before{on}", run_page(experiment_id, before.run_id))
    if how:
        said = f"{score}, {how} {run}, {of} (one run each: no telling)"
    else:
        said = (f"{score}. " if score else "") + f"Since {run}, {of}"
    web = web_address(tags.get(REPOSITORY, ""))
    compare = f"{web}/compare/{there}...{tags[COMMIT]}" if web else ""
    code = f"git diff {there[:10]} {tags[COMMIT][:10]}"
    changed = [] if same else [_link("what changed", compare) if compare else as_code(code)]
    both = ([before.run_id, run_id], [experiment_id])
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in both)
    page = f"#/compare-runs?runs={runs}&experiments={experiments}&{_SIDE}"
    return f"{said}: " + " · ".join([*changed, _link("side by side", page)])


def _head(said: str, since: str, links: str) -> str:
    """Return what is above the sections, in two lines.

    MLflow hides what is below some four lines, and what lies near that edge can't be clicked.
    """
    return "\n".join(filter(None, [said, " · ".join(filter(None, [since, links]))]))


def _parts(head: str) -> tuple[str, str, str]:
    """Return the parts of what is above the sections; of an earlier release it is one."""
    said, _, line = head.strip().partition("\n")
    pieces = line.split(" · ") if line else []
    at = len(pieces)
    while at and re.match(r"\[(?!side by side\])", pieces[at - 1]):
        at -= 1
    return said, " · ".join(pieces[:at]), " · ".join(pieces[at:])


def described(tags: Mapping[str, str], since: str = "", notebook: str = "", place: str = "") -> str:
    """Return the description of a run, in Markdown, to its last line.

    Args:
        tags: the run's.
        since: what changed since the run before.
        notebook: the address of the notebook or machine it runs in, or "".
        place: where its artifacts lie: `gs://…`, or anything else that has no page.
    """
    linked = {"notebook": notebook, "artifacts": console_url(place)}
    links = [_link(text, address) for text, address in linked.items() if _is_address(address)]
    return f"{_head(sentence(tags), since, ' · '.join(links))}\n\n{END}"


def commit_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what MLflow's own tags say of a run's commit, as tags that can be shown and grouped.

    MLflow's UI hides `mlflow.*` from its columns and from grouping. The repository's address loses
    its user and password, which older MLflow took from git with it.
    """
    # Not above: what starts the servers makes links, and stays small without MLflow.
    from mlflow.utils.mlflow_tags import (
        MLFLOW_GIT_BRANCH,
        MLFLOW_GIT_COMMIT,
        MLFLOW_GIT_REPO_URL,
        MLFLOW_SOURCE_NAME,
    )

    found = {}
    for name in (MLFLOW_GIT_REPO_URL, MLFLOW_SOURCE_NAME):
        address = tags.get(name, "")
        if redacted(address) != address:
            found[name] = without_credentials(address)
    if re.fullmatch(r"[0-9a-f]{7,64}", tags.get(MLFLOW_GIT_COMMIT, "")):
        found[SHORT_COMMIT] = tags.get(SHORT_COMMIT) or tags[MLFLOW_GIT_COMMIT][:10]
        if branch := tags.get(BRANCH) or tags.get(MLFLOW_GIT_BRANCH):
            found[BRANCH] = branch
    return found


def _is_address(address: str) -> bool:
    return address.startswith(("https://", "http://", "#"))


def _link(text: str, address: str) -> str:
    if not _is_address(address):
        return text
    # What would end the link here is written otherwise in an address; and three dots, of which
    # MLflow makes one character, in an address, too.
    quoted = quote(address, safe=_ADDRESS, errors="replace").replace("...", "%2E%2E%2E")
    return f"[{text}]({quoted})"


def with_link(before: str, text: str, address: str) -> str:
    """Return a description with one more link in our part of it; the one of that text goes."""
    ours, _, note = before.partition(END)
    head, *sections = _SECTION.split(ours)
    said, since, links = _parts(head)
    if said and not said.endswith("."):  # of an earlier release
        said, links = "", said
    kept = [each for each in links.split(" · ") if each and not each.startswith(f"[{text}]")]
    links = " · ".join([*kept, _link(text, address)])
    return _described(_head(said, since, links), sections, note)


def with_sentences(before: str, tags: Mapping[str, str], since: str = "") -> str:
    """Return a description of ours that begins with what the run is now, and what it came to.

    One of an earlier release stays as it is.
    """
    ours, end, note = before.partition(END)
    head, *sections = _SECTION.split(ours)
    said, before_since, links = _parts(head)
    if not (end and said.endswith(".")):
        return before
    return _described(_head(sentence(tags), since or before_since, links), sections, note)


def with_section(before: str, name: str, text: str) -> str:
    """Return a description with a section of ours, in the place of the one of that name.

    It stands below the sentences and links, and above what people write. `name` is one word that
    nobody sees; `text` is Markdown, "" for none.
    """
    ours, end, note = before.partition(END)
    if not end:  # somebody has written first, or nobody
        ours, note = "", f"\n\n{before}" if before else ""
    links, *sections = _SECTION.split(ours)
    names = sections[::2]
    at = 2 * names.index(name) if name in names else len(sections)
    sections[at : at + 2] = [name, text] if text.strip() else []
    return _described(links.strip(), sections, note)


_SECTION = re.compile(r"^\[//\]: # \((\w+)\)$", re.MULTILINE)


def _described(links: str, sections: Sequence[str], note: str) -> str:
    """Return a description of what is above its sections, of their names and texts, and a note."""
    named = zip(sections[::2], sections[1::2], strict=True)
    below = [f"[//]: # ({name})\n\n{text.strip()}" for name, text in named]
    return "\n\n".join(filter(None, [links, *below, END])) + note


def with_note(before: str, new: str) -> str:
    """Return a description with somebody's note in it: below ours, if there is one.

    `new` is what it is set to: a whole description, or somebody's note alone.
    """
    if END not in before or END in new:
        return new
    ours = before[: before.index(END)] + END
    return f"{ours}\n\n{new}" if new else ours


# -- pages of the UI, as links from another of its pages ------------------------------------------

_SIDE = "workflowType=machine_learning"
"""What each link says: the UI opens on its GenAI side, and which side is shown is kept in the
browser and in this parameter, and nowhere else."""


def run_table(experiment_id: str | None) -> str:
    """Return the page of an experiment's runs; None: that of all experiments."""
    page = f"/{quote(experiment_id)}/runs" if experiment_id else ""
    return f"#/experiments{page}?{_SIDE}"


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the page of a run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_SIDE}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """Return the page that shows an artifact of a run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}?{_SIDE}"
