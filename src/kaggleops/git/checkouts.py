"""A commit in a folder of its own, whole: from this machine, its repository, or a bundle.

Whatever the road, HEAD is the commit that was asked for, no object of it is missing, and its
submodules are there; or there is an error.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, Entry, ObjectNotFoundError
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.addresses import joined, without_credentials
from kaggleops.git.command import AS_COMMITTED, GitError, git
from kaggleops.git.commits import Commit, has_commit, remote_address, subject_of, submodules
from kaggleops.layout import CODE
from kaggleops.secret_scan import Finding, in_patch, refuse

_log = logging.getLogger("kaggleops")

BUNDLED = "refs/heads/kaggleops"
"""What a bundle calls its commit."""

LOCAL = {"protocol.file.allow": "always"}
"""Settings to read a folder of this machine with."""

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SUFFIX = ".bundle"
_HEADER = 1 << 20  # bytes at the beginning of a bundle that name some ten thousand submodules
_MOUNTS = ("*", "*/*/*")  # /kaggle/input/<slug>/, /kaggle/input/datasets/<owner>/<slug>/
_FROM_A_COMMIT = {"GIT_PROTOCOL_FROM_USER": "0"}
"""For addresses that a commit names: git then refuses those that read or run local things."""
_ONE = ("fetch", "--quiet", "--depth", "1", "--no-tags")


def clone(commit: Commit, folder: Path) -> Path:
    """Clone the repository into a folder, check the commit out there, and return the folder.

    The clone's `origin` is the repository's own remote, so that MLflow records where the code
    comes from. Raises GitError if an object of the commit is missing, UsageError if a submodule is
    neither here nor at its address.
    """
    complete(commit.repository, commit.sha)
    source = str(commit.repository)
    options = ("--quiet", "--no-checkout", "--template=", "--origin=origin")
    git(commit.repository, "clone", *options, source, str(folder), config=LOCAL)
    if not has_commit(folder, commit.sha):  # a shallow repository gives out its branches only
        git(folder, *_ONE, source, commit.sha, config=LOCAL)
    _check_out(folder, commit.sha, source, commit.origin)
    _add_submodules(folder, commit.repository, None, remote_address(commit.repository) or source)
    return folder


def fetch(
    url: str, version: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Commit:
    """Fetch one commit, without its history, of a repository elsewhere, into a new folder.

    `url` may carry credentials, which go no further than git; `version` is a full commit hash, a
    branch or a tag. Raises UsageError if it, or a submodule of it, cannot be fetched.
    """
    shown = without_credentials(url)
    doing = f"fetching {version} of {shown}"
    if version.startswith("-"):
        raise UsageError(doing, "that is no commit, branch or tag")
    _init(folder, version)
    try:
        git(folder, *_ONE, "source", version, url=url, environment=environment)
        commit = _fetched(folder, shown, version)
    except GitError as error:
        hint = "Check the address, and that this machine may read it and the commit was pushed."
        raise UsageError(doing, error.problem, hint) from None
    _add_submodules(folder, None, None, url)
    return commit


def can_fetch(url: str, sha: str) -> bool:
    """Tell whether anybody may fetch a commit (its full hash), without this user's credentials."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-") as name:
        folder = Path(name) / "nobody"
        _init(folder, sha, "--bare")
        only = (*_ONE, "--filter=tree:0", "source", sha)
        try:
            git(folder, *only, url=without_credentials(url), anonymous=True)
        except GitError:
            return False
    return True


def fetch_bundle(file: Path, url: str, folder: Path, version: str = "") -> Commit:
    """Check out the commit that a git bundle holds in a new folder; UsageError if it is none.

    `url` is recorded as where it comes from; `version` is the commit (maybe shortened) that it has
    to be, any if empty.
    """
    try:
        named = _heads(file)
        _init(folder, named.get(BUNDLED, ""))
        # It holds commits without their history, which git takes from nobody unless told so.
        (folder / ".git/shallow").write_text("".join(f"{sha}\n" for sha in named.values()))
        git(folder, "fetch", "--quiet", "--no-tags", str(file.absolute()), BUNDLED, config=LOCAL)
        commit = _fetched(folder, without_credentials(url), version or _sha(file.stem))
    except GitError as error:
        raise UsageError(f"reading the code in {file}", error.problem) from None
    _add_submodules(folder, None, folder, url)
    return commit


def _heads(file: Path) -> dict[str, str]:
    """Return the names of the commits that a bundle holds, and their hashes."""
    heads = git(file.parent, "bundle", "list-heads", str(file.absolute()), config=LOCAL)
    return dict(line.split(" ", 1)[::-1] for line in heads.split("\n") if line)


def bundle(commit: Commit, file: Path, *, allow_secrets: bool = False) -> Path:
    """Write a commit and its submodules, without their history, into one file for `fetch_bundle`.

    A submodule that is neither here nor at its address is left out, with a warning. Raises GitError
    if an object of the commit is missing, UsageError if a file holds a secret.
    """
    with tempfile.TemporaryDirectory(prefix="kaggleops-bundle-") as name:
        # A bundle wants a branch, and none is made in the user's repository.
        folder = Path(name)
        _init(folder, commit.sha, "--bare")
        complete(commit.repository, commit.sha)
        source = str(commit.repository)
        git(folder, *_ONE, source, f"{commit.sha}:{BUNDLED}", config=LOCAL)
        base = remote_address(commit.repository) or source
        for path in _gather_submodules(folder, commit.repository, commit.sha, base):
            said = "The bundle of %s lacks the submodule %s: git submodule update --init %s"
            _log.warning(said, commit.sha[:10], path, path)
        if not allow_secrets:
            refuse(list(_secrets_in(folder)), f"bundling {commit.sha[:10]}")
        git(folder, "bundle", "create", "--quiet", str(file.absolute()), "--all")
    return file


def _secrets_in(folder: Path) -> Iterator[Finding]:
    """Yield the secrets in the files of all commits that a repository's refs name."""
    empty = git(folder, "hash-object", "-t", "tree", "--stdin")
    text = folder / "kaggleops-files"
    form = ("--text", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv")
    paths = ("--src-prefix=a/", "--dst-prefix=b/", f"--output={text}")
    for sha in git(folder, "for-each-ref", "--format=%(objectname)").split():
        git(folder, "diff-tree", "-r", "-p", *form, *paths, empty, sha)
        yield from in_patch(text.read_bytes())


def complete(repository: Path, sha: str) -> None:
    """Make sure that a repository has all objects of a commit (a partial clone fetches them)."""
    remote = git(repository, "config", "--name-only", "--get-regexp", r"\.promisor$", check=False)
    name = remote.partition("\n")[0].removeprefix("remote.").removesuffix(".promisor")
    missing: set[str] = set()
    listing = ("rev-list", "--objects", "--max-count=1", "--missing=print", sha)
    while name:
        before = missing
        listed = git(repository, *listing).split("\n")
        missing = {line[1:] for line in listed if line.startswith("?")}
        if not missing or missing == before:
            break
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no")
        url = git(repository, "config", f"remote.{name}.url", check=False)
        fetch = ("fetch", *quiet, "--filter=blob:none", "--stdin", name)
        noop = {"fetch.negotiationAlgorithm": "noop"}
        git(repository, *fetch, config=noop, url=url, given="\n".join(sorted(missing)))
    _require_whole(repository, sha)


def _require_whole(repository: Path, sha: str) -> None:
    try:
        git(repository, "rev-list", "--objects", "--quiet", "--max-count=1", sha)
    except GitError as error:
        problem = f"commit {sha[:10]} is not whole: {error.problem}"
        raise GitError(f"reading {repository}", problem, "git fsck says what is missing.") from None


def _sha(text: str) -> str:
    return text if _SHA.fullmatch(text) else ""


def _init(folder: Path, sha: str, *options: str) -> None:
    kind = "sha256" if len(_sha(sha)) == 64 else "sha1"
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--template=", f"--object-format={kind}", *options)


def _check_out(folder: Path, sha: str, source: str, url: str) -> None:
    """Check out a commit of a folder if it is whole; its filters (Git LFS) read from `source`."""
    _require_whole(folder, sha)
    git(folder, "config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
    git(folder, "config", "remote.origin.url", source)
    git(folder, "checkout", "--quiet", "--detach", sha, config=AS_COMMITTED)
    if url:
        git(folder, "config", "remote.origin.url", url)
    else:
        git(folder, "config", "--remove-section", "remote.origin")


def _fetched(folder: Path, url: str, version: str) -> Commit:
    """Check out what was fetched, if it is the version: a commit, whole or shortened, or a name."""
    sha = git(folder, "rev-parse", "--verify", "FETCH_HEAD^{commit}")
    if re.fullmatch(r"[0-9a-f]{7,64}", version) and not sha.startswith(version):
        raise GitError(f"fetching {version}", f"it holds commit {sha}, not {version}")
    _check_out(folder, sha, url, url)
    return Commit(
        repository=folder,
        sha=sha,
        subject=subject_of(folder, sha),
        branch="" if sha.startswith(version) or version == "HEAD" else version,
        origin=url,
    )


def left_in(folder: Path, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the files of a checkout that match patterns, and are not as the commit has them.

    Patterns are globs as in .gitignore (`*`, `**`), from its top; a folder means all in it. Returns
    sizes in bytes and times of modification in nanoseconds, by "/"-separated names, without links.
    """
    if not patterns:
        return {}
    told = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    tops = (each.rstrip("/") for each in patterns)
    specs = [f":(top,glob){top}{below}" for top in tops for below in ("", "/**")]
    listed = git(folder, *told, "--ignored=traditional", "--", *specs).split("\0")
    found = {}
    for name in (entry[3:] for entry in listed if entry):
        path = folder / name
        if path.is_file() and not path.is_symlink():
            found[name] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


# -- bundles in the bucket's `code/`, or in a dataset that is mounted where there is no network ----


def key_of(sha: str) -> str:
    """Return where in a bucket the bundle of a commit lies."""
    return f"{CODE}/{sha}{_SUFFIX}"


def send(commit: Commit, bucket: Bucket, *, allow_secrets: bool = False) -> str:
    """Put a commit into a bucket, unless it is there; return its key. Raises what `bundle` does."""
    key = key_of(commit.sha)
    bucket.prepare()
    there = bucket.stat(key)
    if there and not any(submodules(commit.repository, commit.sha)):
        return key
    with tempfile.TemporaryDirectory(prefix="kaggleops-code-") as folder:
        made = bundle(commit, Path(folder) / "code", allow_secrets=allow_secrets)
        if there is None:
            bucket.write(key, made, expected=ABSENT)
        elif _heads(made).keys() - _heads_in(bucket, there, Path(folder) / "there").keys():
            # A submodule was out of reach when that one was made.
            bucket.write(key, made, expected=there.version)
    return key


def _heads_in(bucket: Bucket, entry: Entry, file: Path) -> dict[str, str]:
    """Return what `_heads` says of a bundle in a bucket; nothing if it is none."""
    with file.open("wb") as into:
        bucket.read_span(entry, into, end=min(entry.size, _HEADER))
    with suppress(GitError):
        return _heads(file)
    return {}


def fetch_or_unbundle(url: str, version: str, folder: Path, bucket: Bucket) -> Commit:
    """Fetch one commit from its repository or, where that fails, from its bundle in a bucket.

    Only a full commit hash is looked for in the bucket. Raises UsageError if it is in neither.
    """
    try:
        return fetch(url, version, folder / "clone")
    except UsageError:
        file = folder / f"{version}{_SUFFIX}"
        if _SHA.fullmatch(version):
            with suppress(ObjectNotFoundError):
                bucket.fetch(key_of(version), file)
        if not file.exists():
            raise
    return fetch_bundle(file, url, folder / "unbundled", version)


def mounted_bundles(inputs: Path | None, version: str = "") -> list[Path]:
    """Return the bundles, of one commit (maybe shortened) if given, among a platform's mounts."""
    if inputs is None:
        return []
    return sorted(file for up in _MOUNTS for file in inputs.glob(f"{up}/{version}*{_SUFFIX}"))


def mounted_bundle(inputs: Path | None, version: str) -> Path | None:
    """Return the one bundle that is meant, or None; UsageError if there are several."""
    found = mounted_bundles(inputs, version)
    if len(found) > 1:
        names = ", ".join(file.stem[:10] for file in found)
        doing = f"looking for the code under {inputs}"
        raise UsageError(doing, f"it holds several commits: {names}", "Fill in `version`.")
    return found[0] if found else None


# -- submodules ---------------------------------------------------------------------------------


def _place_of(path: str, sha: str, around: Path | None, stored: Path | None) -> Path | None:
    """Return the repository on this machine that has a submodule's commit, if there is one."""
    places = [stored] if stored else []
    if around:
        shared = git(around, "rev-parse", "--git-common-dir", check=False)
        places += [around / path, around / shared / "modules" / path]
    return next((each for each in places if has_commit(each, sha)), None)


def _add_submodules(folder: Path, around: Path | None, stored: Path | None, base: str) -> None:
    """Check out a folder's submodules, from `around` or `stored` on this machine, or elsewhere."""
    for path, sha, address in submodules(folder, "HEAD"):
        into, address = folder / path, joined(base, address)
        if place := _place_of(path, sha, around, stored):
            complete(place, sha)
            _init(into, sha)
            git(into, *_ONE, str(place), sha, config=LOCAL)
            _check_out(into, sha, str(place), without_credentials(address))
            _add_submodules(into, place if around else None, stored, address)
        elif address:
            try:
                fetch(address, sha, into, _FROM_A_COMMIT)
            except KaggleOpsError as error:
                raise UsageError(f"fetching the submodule {path}", str(error)) from None


def _gather_submodules(folder: Path, around: Path, sha: str, base: str) -> Iterator[str]:
    """Fetch a commit's submodules into one repository; yield the paths of those out of reach."""
    for path, inner, address in submodules(around, sha):
        ref, address = f"{inner}:refs/kaggleops/{inner}", joined(base, address)
        place = _place_of(path, inner, around, None)
        try:
            if place:
                complete(place, inner)
                git(folder, *_ONE, str(place), ref, config=LOCAL)
            elif address:
                git(folder, *_ONE, "source", ref, url=address, environment=_FROM_A_COMMIT)
            else:
                continue
        except GitError:
            yield path
        else:
            nested = _gather_submodules(folder, place or folder, inner, address)
            yield from (f"{path}/{each}" for each in nested)
