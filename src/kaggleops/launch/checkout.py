"""What lies in a run's checkout besides its commit: data that git lacks, and what the run leaves.

An MLproject says both, for whoever runs the commit:

    data: [data/train.csv]            # read by the training, and not in git
    keep: [results/, submission.csv]  # written by it, and kept with the run

Data is a link to where it lies: in the repository that a run of this machine comes from, or where
its resource has it; what git has counts more. Files that match `keep` (by default `USUALLY_KEPT`)
become artifacts of the run at the end of every leg, in place of what an earlier leg left there.
Left out are links, what is as the commit has it, what the run has logged itself and, with a line,
what holds a secret or goes over the limits. Nothing of this fails a training that has begun.
"""

import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import chdir, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import left_in
from kaggleops.git.commits import Commit
from kaggleops.git.project_files import USUALLY_KEPT, has_path
from kaggleops.printable import counted, printable
from kaggleops.redaction import redacted
from kaggleops.resources.local import Read, resources
from kaggleops.resources.manifest import MANIFEST, read_manifest
from kaggleops.resources.places import data_root
from kaggleops.secret_scan import in_data

MOST_BYTES, MOST_FILES = 1_000_000_000, 1000
"""What is kept of one leg."""

_log = logging.getLogger("kaggleops")
_NAMED = 5  # files, in a message
_ANOTHER = "the run has logged another one of that name"


def declared_paths(folder: Path, key: str, doing: str) -> tuple[str, ...] | None:
    """Return the paths that a checkout's MLproject lists under `data` or `keep`; None without it.

    Raises UsageError for what is no list of paths in the repository.
    """
    content = yaml.safe_load((folder / "MLproject").read_text())
    told = content.get(key) if isinstance(content, dict) else None
    if told is None:
        return None
    listed = [told] if isinstance(told, str) else told
    if not isinstance(listed, list) or not all(map(_is_inside, listed)):
        problem = f"`{key}` in MLproject lists no paths in the repository"
        raise UsageError(doing, problem, f"Write {key}: [FOLDER/, FILE.csv], or {key}: [].")
    return tuple(listed)


def _is_inside(path: Any) -> bool:
    if not isinstance(path, str) or path.startswith((":", "-")):
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and ".git" not in parts


def place_data(folder: Path, doing: str) -> list[Read]:
    """Link the data that a checkout's MLproject lists into it, and return what its run reads.

    Raises UsageError for data that is not on this machine, and what `kaggleops.resources` does.
    """
    reads = []
    for path in declared_paths(folder, "data", doing) or ():
        name, destination = resource_of(folder, path)
        if name:
            with chdir(folder):
                there, read = resources(name).placed()
            _link(there, folder / destination)
            reads.append(read)
        elif (there := data_root(folder) / path).exists() and there.resolve() != folder / path:
            _link(there, folder / path)
        elif not (folder / path).exists():
            root = data_root(folder)  # its own, which is gone with the run, is no place for data
            where = (
                f"Put it into {root}" if root != folder else "Start it in a repository that has it"
            )
            hint = (
                f"{where}, or say where it comes from: kaggleops data add "
                f"NAME SOURCE --destination {PurePosixPath(path).parts[0]}"
            )
            raise UsageError(doing, f"its data {path} is neither in git nor here", hint)
    return reads


def refuse_data_from_here(commit: Commit, folder: Path, doing: str) -> None:
    """Raise UsageError where a commit reads data that only this machine has.

    `folder` has its MLproject and its manifest.
    """
    for path in declared_paths(folder, "data", doing) or ():
        if not resource_of(folder, path)[0] and not has_path(commit.repository, commit.sha, path):
            top = PurePosixPath(path).parts[0]
            hint = (
                f"Bring it into the bucket and commit where it is: kaggleops data push {top}. Or "
                f"say where else it comes from: kaggleops data add {top} SOURCE --destination {top}"
            )
            raise UsageError(doing, f"its data {path} is on this machine only", hint)


def resource_of(folder: Path, path: str) -> tuple[str, str]:
    """Return the name and the destination of the resource that brings a path; "" for none.

    Raises UsageError if the manifest cannot be read.
    """
    if (folder / MANIFEST).is_file():
        asked = PurePosixPath(path)
        for resource in read_manifest(folder / MANIFEST).resources.values():
            there = PurePosixPath(resource.destination)
            if asked.is_relative_to(there) or there.is_relative_to(asked):
                return resource.name, resource.destination
    return "", ""


def _link(there: Path, here: Path) -> None:
    """Link a file or folder; of a folder that git has, what it lacks."""
    if here.is_dir() and not here.is_symlink():
        for each in there.iterdir() if there.is_dir() else ():
            _link(each, here / each.name)
    elif not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.unlink(missing_ok=True)
        here.symlink_to(there.resolve())


class Left:
    """What a run leaves in its checkout, a folder, from now on; with secrets only if allowed.

    Raises UsageError if its MLproject does not say rightly what to keep.
    """

    def __init__(self, folder: Path, doing: str, *, allow_secrets: bool = False) -> None:
        told = declared_paths(folder, "keep", doing)
        self._folder = folder
        self._patterns = USUALLY_KEPT if told is None else told
        self._allow_secrets = allow_secrets
        for each in self._patterns:
            # A fresh clone lacks a folder that git ignores, and code counts on it. What the commit
            # has there instead, a file or a link to nowhere, stays.
            if each.endswith("/") and not set("*?[") & set(each):
                with suppress(FileExistsError, NotADirectoryError):
                    (folder / each).mkdir(parents=True, exist_ok=True)
        self._before = left_in(folder, self._patterns)

    def keep(self, run: Run, *, again: bool) -> None:
        """Log what is new since then as artifacts of a run; a later leg logs them `again`."""
        try:
            now = left_in(self._folder, self._patterns)
            sizes = {name: now[name][0] for name in now if now[name] != self._before.get(name)}
            if sizes:
                self._keep(run, sizes, again)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has ended as it has
            _log.warning("What the run left in its folder is not kept: %s", redacted(str(error)))

    def _keep(self, run: Run, sizes: dict[str, int], again: bool) -> None:
        client, run_id = MlflowClient(), run.info.run_id
        known: dict[str, int] = {}
        with suppress(KaggleOpsError, MlflowException):  # what is logged now is sent later
            known = {} if again else _known(client, run_id, sizes)
        kept: list[str] = []
        over: list[str] = []
        size = 0
        for name in sorted(sizes, key=lambda each: (sizes[each], each)):
            if known.get(name) == sizes[name]:
                continue  # the run has logged it itself
            if size + sizes[name] > MOST_BYTES or len(kept) == MOST_FILES:
                over.append(name)
                continue
            try:
                why = _ANOTHER if name in known else self._secret(name)
                if not why:
                    parent = PurePosixPath(name).parent.as_posix()
                    there = None if parent == "." else parent
                    client.log_artifact(run_id, str(self._folder / name), there)
                    size += sizes[name]
                    kept.append(name)
            except Exception as error:  # noqa: BLE001 - its name or mode, say: the others are kept
                why = redacted(str(error)).rstrip(".")
            if why:
                _log.warning("%s is not kept: %s.", printable(name), why)
        if kept:
            # As their top folders, those at the root as they are.
            tops = ["".join(name.partition("/")[:2]) for name in kept]
            sized = f"{size / 1e6:,.1f} MB" if size > 1e5 else f"{size:,} bytes"
            said = f"{_some(list(dict.fromkeys(tops)))} ({counted(len(kept))}, {sized})"
            sys.stderr.write(f"kept with the run: {said}\n")
        if over:
            limits = f"a run keeps {MOST_BYTES / 1e9:.0f} GB and {MOST_FILES:,} files of its folder"
            _log.warning("Not kept: %s; %s.", _some(over), limits)

    def _secret(self, name: str) -> str:
        found = [] if self._allow_secrets else in_data(name, self._folder / name)
        return f"line {found[0].line} holds a secret ({found[0].kind})" if found else ""


def _known(client: MlflowClient, run_id: str, names: Iterable[str]) -> dict[str, int]:
    """Return the sizes of a run's artifacts that lie where some files would."""
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in names})
    found: dict[str, int] = {}
    for folder in folders:
        for each in client.list_artifacts(run_id, None if folder == "." else folder):
            if not each.is_dir:
                found[each.path] = each.file_size
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more
