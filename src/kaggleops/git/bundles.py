"""A commit that a runner cannot clone (private, or not pushed), as a git bundle.

It lies in the bucket's `code/`, or in a dataset that is mounted where there is no network.
"""

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ObjectNotFoundError
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import bundle, fetch, fetch_bundle
from kaggleops.git.commits import Commit
from kaggleops.layout import CODE

_SUFFIX = ".bundle"
_SHA = re.compile(r"[0-9a-f]{40,64}")
_MOUNTS = ("*", "*/*/*")  # /kaggle/input/<slug>/, /kaggle/input/datasets/<owner>/<slug>/


def key_of(sha: str) -> str:
    """Return where in a bucket the bundle of a commit lies."""
    return f"{CODE}/{sha}{_SUFFIX}"


def send(commit: Commit, bucket: Bucket, *, allow_secrets: bool = False) -> str:
    """Put a commit into a bucket, unless it is there; return its key. Raises what `bundle` does."""
    key = key_of(commit.sha)
    bucket.prepare()
    if bucket.stat(key) is None:
        with tempfile.TemporaryDirectory(prefix="kaggleops-code-") as folder:
            made = bundle(commit, Path(folder) / "code", allow_secrets=allow_secrets)
            bucket.write(key, made, expected=ABSENT)
    return key


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
