"""A run's models, submitted to a code competition, which runs a notebook without internet itself.

An offline folder becomes a private dataset; a notebook predicts with it, and the version of it that
left what the competition wants is submitted. All of that is called after the run, and says what it
was made of. Each step looks at Kaggle first and does only what is lacking, so a command that was
killed is given again, from whatever machine, and nothing is submitted twice.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from kaggleops.backends.interface import JobState
from kaggleops.backends.kaggle.backend import NOTEBOOK, KaggleBackend, KaggleConfig
from kaggleops.backends.kaggle.offline_folder import PREDICT, BlendFolder, OfflineFolder
from kaggleops.backends.kaggle.submissions import FILE, Submission, Submitter, pauses
from kaggleops.errors import KaggleOpsError
from kaggleops.launch.failure import cause
from kaggleops.launch.launcher import temporary_folder
from kaggleops.platforms.http import NotThereError

_LONGEST_WAIT = 3600.0  # seconds that Kaggle may take over a dataset; it takes minutes
_PAGE = 100  # files in one answer

_CELL = """%%bash
# kaggleops {digest}
set -e
fail() {{ echo "error: $1" >&2; exit 1; }}
# Kaggle mounts what is attached now here, now there, so it is looked for.
INPUT=$(dirname "$PWD")/input
HERE=$(dirname "$(find "$INPUT" -name {marker} -print -quit)")
DATA=$(find "$INPUT" -path "$HERE" -prune -o -type d -name {competition} -print -quit)
[ -f "$HERE/{predict}" ] || fail "{dataset} is not attached, or another version of it"
[ -d "$DATA" ] || fail "the data of {competition} is not attached"
bash "$HERE/{predict}" "$DATA"
[ -f {file} ] || fail "it left no {file}"
"""


class CodeSubmission:
    """One run's, to one competition; `say` is called with each step and what became of it.

    `folder` is what predicts, `config` the notebook's machine and what else is attached.
    """

    def __init__(
        self,
        submitter: Submitter,
        folder: OfflineFolder | BlendFolder,
        config: KaggleConfig,
        say: Callable[[str, str], None],
    ) -> None:
        self._submitter = submitter
        self._folder = folder
        self._say = say
        self._backend = KaggleBackend()
        self._client = submitter.submissions.client
        competition = submitter.competition
        self._slug = f"kaggleops-code-{submitter.run_id}"
        self.ref = f"{self._client.user}/{self._slug}"
        """The dataset and, of the same name, the notebook."""
        self._tags = {NOTEBOOK: self.ref}
        self._page = f"https://www.kaggle.com/code/{self.ref}"
        self._marker = f"kaggleops-{folder.digest}.txt"
        self._config = replace(
            config,
            internet=False,
            dataset_sources=[self.ref, *config.dataset_sources],
            competition_sources=list(dict.fromkeys([competition, *config.competition_sources])),
        )
        named = {"marker": self._marker, "competition": competition, "dataset": self.ref}
        cell = _CELL.format(digest="{digest}", predict=PREDICT, file=FILE, **named)
        told = json.dumps([cell, repr(self._config)]).encode()
        self._digest = hashlib.sha256(told).hexdigest()[:16]
        self._notebook = _notebook_of(cell.replace("{digest}", self._digest))

    def plan(self) -> None:
        """Say what `submit` would do; do nothing."""
        self._say_left()
        described, sent = self._folder.describe(), self._sent()
        would = {"none": "would be made", "other": "would get a new version"}
        state = self._dataset()
        said = f"dataset {self.ref} {would.get(state, f'is {state}')}"
        self._say("Folder", f"{described}; {said}")
        version, ended = self._latest()
        machine = self._config.machine_shape or "no accelerator"
        pushed = f"would be pushed ({machine}, internet off)"
        self._say("Notebook", f"version {version} is {ended.said}" if ended else pushed)
        self._say("Output", f"{FILE} would be compared with the sample")
        self._say("Submission", f"{sent.ref} is {sent.status}" if sent else "would be made")

    def submit(self, message: str = "") -> Submission:
        """Do what is lacking, and return the submission, which has no score yet.

        Raises KaggleOpsError if a step failed, or no more are taken today. Once more, it goes on
        there.
        """
        if sent := self._sent():
            self._say("Submission", f"{sent.ref} was made already")
            return self._submitter.record(sent)
        self._say_left()
        self._provide_dataset()
        version = self._provide_notebook()
        with temporary_folder() as folder:
            brought = self._backend.fetch(self.ref, folder, FILE)
            if not brought.files:
                doing = f"reading what version {version} of {self.ref} left"
                raise KaggleOpsError(doing, (brought.problems or [f"there is no {FILE}"])[0])
            rows = self._submitter.check(brought.files[0])
        like = "the competition has no sample"
        if rows is not None:
            like = f"{rows:,} rows, those of the sample"
        self._say("Output", f"{FILE}: {like}")
        return self._submitter.submit_version(self.ref, version, self._digest, message)

    def _say_left(self) -> None:
        if left := self._submitter.submissions.left_today():
            self._say("Today", left)

    def _sent(self) -> Submission | None:
        return self._submitter.submissions.holding(self._digest, failed=True)

    def _dataset(self) -> str:
        """Return how far it is: "none", "in the making", "other" (content), "there", "failed"."""
        doing = f"looking for the dataset {self.ref}"
        try:
            status = self._client.quietly(doing, lambda: self._client.dataset_status(self.ref))
        except NotThereError:
            return "none"
        if status in ("failed", "deleted"):
            return "failed"
        if status != "ready":
            return "in the making"
        token = None
        while True:
            ask = partial(self._client.dataset_list_files, self.ref, token, _PAGE)
            page = self._client.quietly(doing, ask)
            if any(each.name == self._marker for each in page.dataset_files or ()):
                return "there"
            if not (token := page.next_page_token):
                return "other"

    def _provide_dataset(self) -> None:
        name = f"dataset {self.ref}"
        state = self._until("there", "none", "other", "failed")
        if state == "there":
            self._say("Folder", f"{name} has it already")
            return
        self._say("Folder", f"making {self._folder.describe()}")
        with temporary_folder() as scratch:
            folder = scratch / "offline"
            folder.mkdir()
            self._folder.make(folder, scratch)
            (folder / self._marker).write_text("By this file the notebook finds the folder.\n")
            size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
            self._say("Dataset", f"uploading {size / 1e6:,.1f} MB to {self.ref}")
            notes, exists = f"kaggleops {self._folder.digest}", state != "none"
            try:
                doing = f"uploading {name}"
                self._client.put_dataset(doing, self._slug, folder, notes, exists=exists)
            except KaggleOpsError:
                # The answer may be lost, and a repeated request refused.
                if self._dataset() not in ("there", "in the making"):
                    raise
        if self._until("there", "failed") == "failed":
            page = f"https://www.kaggle.com/datasets/{self.ref}"
            raise KaggleOpsError(f"making the {name}", "Kaggle says that it failed", page)
        self._say("Dataset", f"{self.ref} is ready")

    def _until(self, *wanted: str) -> str:
        waited = 0.0
        for seconds in pauses():
            if (found := self._dataset()) in wanted:
                break
            if waited > _LONGEST_WAIT:
                doing = f"waiting for the dataset {self.ref}"
                problem = f"it is not ready after {waited / 60:.0f} min"
                raise KaggleOpsError(doing, problem, "Give the command again later: it goes on.")
            time.sleep(seconds)
            waited += seconds
        return found

    def _latest(self) -> tuple[int, JobState | None]:
        """Return its latest version, and how far that is; None for one made of something else."""
        version, source = self._backend.latest(self.ref)
        ours = f"# kaggleops {self._digest}" in source
        return version, self._backend.state(self._tags) if ours else None

    def _provide_notebook(self) -> int:
        """Return the version that came to its end well."""
        version, state = self._latest()
        if state is None or state.status in ("FAILED", "KILLED"):
            version = self._backend.push(self.ref, self._notebook, self._config, version)
            self._say("Notebook", f"pushed version {version}: {self._page}")
        else:
            self._say("Notebook", f"version {version} is there: {self._page}")
        for seconds in pauses():
            if (now := self._backend.state(self._tags)).ended:
                break
            time.sleep(seconds)
        if now.status != "FINISHED":
            why = now.reason
            with suppress(KaggleOpsError):
                why = why or cause(self._backend.logs(self._tags, follow=False))
            doing = f"running version {version} of {self.ref}"
            raise KaggleOpsError(doing, why or now.said, self._page)
        return version


def _notebook_of(cell: str) -> str:
    """Return a notebook of one cell, as JSON."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    cells = [{**code, "outputs": [], "source": cell}]
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4})
