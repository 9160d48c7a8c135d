"""What is not committed, as a patch: new files included, but nothing inside submodules."""

import json
import shutil
import tempfile
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.command import AS_COMMITTED, git
from kaggleops.git.commits import Commit
from kaggleops.secret_scan import in_patch, refuse

_TREES = ("diff-tree", "-r", "--no-renames")
_FORM = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


def write_patch(commit: Commit, file: Path, *, allow_secrets: bool = False) -> list[str]:
    """Write what is not committed, new files included, as a patch; return the files' names.

    Raises UsageError if it holds a secret, or where a submodule is not as the commit has it.
    """
    doing = f"taking the uncommitted changes of {commit.repository} along"
    repository = commit.repository
    asked = ("rev-parse", "--git-path", "index", "--git-path", "objects")
    index, objects = (repository / name for name in git(repository, *asked).split("\n"))
    with tempfile.TemporaryDirectory(prefix="kaggleops-patch-") as name:
        scratch = Path(name)
        # What the user has staged stays as it is, and so does everything in their repository.
        apart = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": json.dumps(str(objects), ensure_ascii=False),
        }
        if index.is_file():
            shutil.copy(index, scratch / "index")
        git(repository, "add", "--all", environment=apart)
        # Two trees are compared: with an index, git would take unchanged files from the working
        # tree.
        ends = (commit.sha, git(repository, "write-tree", environment=apart))
        # All files are in there now, if not as they are by now; not what is inside submodules.
        inside = ("diff-files", "--ignore-submodules=none")
        rest = _entries(git(repository, *inside, "-z", environment=apart))
        apart["GIT_INDEX_FILE"] = str(scratch / "none")
        entries = _entries(git(repository, *_TREES, "-z", *ends, environment=apart))
        changed = [*rest.items(), *entries.items()]
        if inner := next((path for path, modes in changed if "160000" in modes), ""):
            problem = f"the repository inside it, {inner}, is not as the commit has it"
            hint = "Commit there, then here; or restore it: git submodule update --init."
            raise UsageError(doing, problem, hint)
        written = (*_TREES, "--binary", *_FORM, f"--output={file.absolute()}")
        git(repository, *written, *ends, environment=apart, config=AS_COMMITTED)
        if not allow_secrets:
            # As text, whatever it is: what is compressed in a patch cannot be looked through.
            as_text = (*_TREES, "--patch", "--text", *_FORM, f"--output={scratch}/text")
            git(repository, *as_text, *ends, environment=apart, config=AS_COMMITTED)
            refuse(in_patch((scratch / "text").read_bytes()), doing)
    return list(entries)


def _entries(listed: str) -> dict[str, str]:
    """Return the modes, before and after, of what git lists as changed, by its path."""
    fields = listed.split("\0")
    return {path: entry[:14] for entry, path in zip(fields[::2], fields[1::2], strict=False)}


def apply_patch(file: Path, folder: Path) -> None:
    """Change a checked-out commit as a patch says; GitError if it does not fit."""
    if file.stat().st_size:
        arguments = ("apply", "--whitespace=nowarn", str(file.absolute()))
        git(folder, *arguments, config=AS_COMMITTED)
