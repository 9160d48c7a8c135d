"""What is not committed, as a patch: new files and changes inside submodules included."""

import json
import shutil
import tempfile
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.command import AS_COMMITTED, git
from kaggleops.git.commits import Commit, has_commit, links
from kaggleops.secret_scan import in_patch, refuse


def write_patch(commit: Commit, file: Path, *, allow_secrets: bool = False) -> list[str]:
    """Write what is not committed, new files included, as a patch; return the files' names.

    Raises UsageError if it holds a secret, or a change to a submodule that a patch cannot hold.
    """
    doing = f"taking the uncommitted changes of {commit.repository} along"
    with tempfile.TemporaryDirectory(prefix="kaggleops-patch-") as folder:
        names = _write(commit.repository, commit.sha, "", Path(folder), file, doing)
        if not allow_secrets:
            texts = sorted(Path(folder).glob("*/text"))
            refuse([found for text in texts for found in in_patch(text.read_bytes())], doing)
    return names


def apply_patch(file: Path, folder: Path) -> None:
    """Change a checked-out commit as a patch says; GitError if it does not fit."""
    if file.stat().st_size:
        arguments = ("apply", "--whitespace=nowarn", str(file.absolute()))
        git(folder, *arguments, config=AS_COMMITTED)


def _write(
    repository: Path, base: str, prefix: str, folder: Path, file: Path, doing: str
) -> list[str]:
    """Add to a file what a working tree, at `prefix` in another, has besides a commit or a tree."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    asked = ("rev-parse", "--git-path", "index", "--git-path", "objects")
    index, objects = (repository / name for name in git(repository, *asked).split("\n"))
    # What the user has staged stays as it is, and so does everything in their repository.
    apart = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": json.dumps(str(objects), ensure_ascii=False),
    }
    if index.is_file():
        shutil.copy(index, scratch / "index")
    git(repository, "add", "--all", environment=apart)
    # Two trees are compared: with an index, git would take unchanged files from the working tree.
    after = git(repository, "write-tree", environment=apart)
    apart["GIT_INDEX_FILE"] = str(scratch / "none")
    diff = ("diff-tree", "-r", "--no-renames", "--ignore-submodules=all")
    form = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", f"--output={scratch}/patch")
    paths = (f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}")
    ends = (base, after)
    git(repository, *diff, *form, *paths, *ends, environment=apart, config=AS_COMMITTED)
    # As text, whatever it is: what is compressed in a patch cannot be looked through.
    as_text = ("--patch", "--text", *form[1:-1], f"--output={scratch}/text")
    git(repository, *diff, *as_text, *paths, *ends, environment=apart, config=AS_COMMITTED)
    with file.open("wb" if not prefix else "ab") as all_of_it:
        all_of_it.write((scratch / "patch").read_bytes())
    listed = git(repository, *diff, "--name-only", "-z", base, after, environment=apart)
    names = [f"{prefix}{name}" for name in listed.split("\0") if name]
    recorded, staged = links(repository, base), links(repository, after, apart)
    for path in recorded.keys() - staged.keys():
        hint = "Commit that, or restore it: git submodule update --init."
        raise UsageError(doing, f"the submodule {prefix}{path} was removed", hint)
    empty = git(repository, "hash-object", "-t", "tree", "--stdin")
    for path in sorted(staged):
        inner, before = repository / path, recorded.get(path)
        if not (inner / ".git").exists():
            continue  # it is not checked out here, so nothing of it was changed
        if before and not has_commit(inner, before):
            hint = "Commit in it and here, or git submodule update."
            problem = f"the submodule {prefix}{path} lacks the commit {before[:10]} it started from"
            raise UsageError(doing, problem, hint)
        names += _write(inner, before or empty, f"{prefix}{path}/", folder, file, doing)
    return names
