"""What this tool writes into a person's repository never counts as a change of theirs.

Git ignores it on this machine (`.git/info/exclude`, which nobody commits), so `git status` does not
show it, `kaggleops run` does not ask for it, and `git add .` does not take it. `git add --force`
commits it all the same.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from kaggleops.git.command import GitError, git
from kaggleops.git.commits import repository_around


def leave_out(path: Path) -> None:
    """Let git ignore a file or folder on this machine, unless it has it or ignores it already.

    Nothing is done for a path outside of any repository, or where git's folder cannot be written.
    """
    with suppress(OSError, GitError, ValueError):
        path = path.absolute()
        top = repository_around(next(each for each in path.parents if each.is_dir()))
        if top is None:
            return
        name = (path.parent.resolve() / path.name).relative_to(top.resolve()).as_posix()
        if git(top, "ls-files", "--", f":(literal){name}"):
            return
        name += "/" if path.is_dir() else ""
        if not is_ignored(top, name):
            exclude = top / git(top, "rev-parse", "--git-path", "info/exclude")
            exclude.parent.mkdir(parents=True, exist_ok=True)
            append(exclude, [f"/{escaped(name)}"])


def is_ignored(repository: Path, path: str) -> bool:
    """Tell whether git ignores a path here, not counting this person's settings."""
    everybody = {"core.excludesFile": os.devnull}
    return bool(git(repository, "check-ignore", path, check=False, config=everybody))


def escaped(path: str) -> str:
    """Return a path as a line of .gitignore that means nothing else."""
    return re.sub(r"[\\*?\[\]]|\s$", r"\\\g<0>", path)


def append(file: Path, lines: list[str]) -> None:
    """Add lines to a file such as .gitignore."""
    before = file.read_text() if file.is_file() else ""
    gap = "" if before.endswith("\n") or not before else "\n"
    file.write_text(f"{before}{gap}" + "".join(f"{line}\n" for line in lines))
