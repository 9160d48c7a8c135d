"""What MLflow's UI shows of a commit: the top of a run's page, and the table grouped by commit.

MLflow shows the tag `mlflow.note.content` there, as Markdown. It is also where people write, so
what they write is kept below ours, whoever writes first.

MLflow's UI keeps views to share as tags of the experiment, and a link names one by its key.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from kaggleops.bucket.location import console_url
from kaggleops.git.addresses import web_address, without_credentials
from kaggleops.printable import as_code
from kaggleops.redaction import redacted
from kaggleops.tags import BRANCH, SHORT_COMMIT

_ADDRESS = ":/?#[]@!$&'*+,;=%~"

END = "[//]: # (What is above is kaggleops'. Your own note goes below.)"
"""A comment in Markdown: nobody sees it on the page."""


@dataclass(frozen=True)
class Origins:
    """Where a run comes from.

    Args:
        sha: the full hash of its commit.
        branch: the commit's branch, or "".
        origin: the address of the repository, without credentials, or "".
        previous_sha: the full hash of the commit of the experiment's run before, or "".
        side_by_side: the UI's page that compares the run with that one, or "".
        notebook: the address of the notebook or machine it runs in, or "".
        artifacts: where its artifacts lie: `gs://…`, or anything else that has no page.
    """

    sha: str
    branch: str = ""
    origin: str = ""
    previous_sha: str = ""
    side_by_side: str = ""
    notebook: str = ""
    artifacts: str = ""

    def describe(self) -> str:
        """Return the description, in Markdown, to its last line."""
        web = web_address(self.origin)
        commit = as_code(self.sha[:10])
        where = f" on {as_code(self.branch)}" if self.branch else ""
        said = [_link(f"Commit {commit}", f"{web}/commit/{self.sha}" if web else "") + where]
        if self.previous_sha == self.sha:
            said.append("the commit of the run before")
        elif self.previous_sha:
            since = f"changes since {as_code(self.previous_sha[:10])}, the run before"
            compare = f"{web}/compare/{self.previous_sha}...{self.sha}" if web else ""
            said.append(_link(since, compare))
        if self.side_by_side:
            said.append(_link("side by side", self.side_by_side))
        if self.notebook:
            said.append(_link("notebook", self.notebook))
        if page := console_url(self.artifacts):
            said.append(_link("artifacts", page))
        return " · ".join(said) + f"\n\n{END}"


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


def _link(text: str, address: str) -> str:
    if not address.startswith(("https://", "http://", "#")):
        return text
    # What would end the link here is written otherwise in an address.
    return f"[{text}]({quote(address, safe=_ADDRESS, errors='replace')})"


def with_link(before: str, text: str, address: str) -> str:
    """Return a description with one more link in our part of it; the one of that text goes."""
    ours, _, note = before.partition(END)
    kept = [each for each in ours.strip().split(" · ") if each and not each.startswith(f"[{text}]")]
    return " · ".join([*kept, _link(text, address)]) + f"\n\n{END}{note}"


def with_note(before: str, new: str) -> str:
    """Return a description with somebody's note in it: below ours, if there is one.

    `new` is what it is set to: a whole description, or somebody's note alone.
    """
    if END not in before or END in new:
        return new
    ours = before[: before.index(END)] + END
    return f"{ours}\n\n{new}" if new else ours


KEY = "by-commit"
"""What the parameter `viewStateShareKey` of a link has to be."""

TAG = f"mlflow.sharedViewState.{KEY}"
"""The experiment's tag that holds the view."""

GROUPED_BY_COMMIT = json.dumps(
    {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "git_commit"}],
        }
    }
)
"""The tag's value."""


def link_parameters(*, by_commit: bool) -> str:
    """Return the parameters of a link to a run table, grouped where the tag above is set."""
    # The UI opens on its GenAI side; which side is shown is kept in the browser and in this
    # parameter of the link, and nowhere else.
    side = "workflowType=machine_learning"
    return f"{side}&viewStateShareKey={KEY}" if by_commit else side


def side_by_side(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the page that compares runs, as a link from another page of the UI."""
    runs, experiments = (
        quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id])
    )
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """Return the page that shows an artifact of a run, as a link from another page of the UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}"
