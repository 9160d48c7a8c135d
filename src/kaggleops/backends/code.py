"""Where another machine gets a commit from: its repository, or a bundle in the bucket."""

from urllib.parse import urlsplit

from kaggleops.bucket import open_bucket
from kaggleops.errors import UsageError
from kaggleops.git.addresses import joined, web_address
from kaggleops.git.checkouts import can_fetch, key_of, send
from kaggleops.git.commits import Commit, has_commit, submodules

_OPEN = ("http", "https", "git")  # others take a key or a disk that only this machine has


def anybody_can_fetch(commit: Commit) -> bool:
    """Tell whether a machine without this one's keys can fetch a commit and its submodules.

    Raises GitError if the commit cannot be read here.
    """
    address = _address(commit)
    inner = submodules(commit.repository, commit.sha)
    return _is_open(address, commit.sha) and all(
        _is_open(joined(address, url), sha) for _, sha, url in inner if url
    )


def _address(commit: Commit) -> str:
    # `git@github.com:…` takes a key, and https://github.com/… may not.
    return web_address(commit.origin) or commit.origin


def _is_open(address: str, sha: str) -> bool:
    return urlsplit(address).scheme in _OPEN and can_fetch(address, sha)


def address_for_others(commit: Commit, bucket_uri: str, *, allow_secrets: bool = False) -> str:
    """Return the repository's address for a machine without this one's keys.

    A commit that such a machine cannot fetch there (private, not pushed) goes into the bucket,
    where `kaggleops.git.checkouts` looks for it next. Raises KaggleOpsError if it can be neither
    fetched nor bundled.
    """
    if not anybody_can_fetch(commit):
        send(commit, open_bucket(bucket_uri), allow_secrets=allow_secrets)
    return _address(commit) or commit.repository.name


def address_of_known(commit: Commit, bucket_uri: str) -> str:
    """Return the repository's address for a commit that this machine may not have.

    Where its repository is here, it goes into the bucket as a new run's does. Raises UsageError if
    it can neither be fetched nor is in the bucket, else what `address_for_others` does.
    """
    address = _address(commit)
    if _is_open(address, commit.sha) or open_bucket(bucket_uri).stat(key_of(commit.sha)):
        return address or "bundle"
    if has_commit(commit.repository, commit.sha):
        return address_for_others(commit, bucket_uri)
    problem = f"not everybody can fetch it from {address or 'a remote'}, and {bucket_uri} has none"
    hint = "Push it, or resume it in a folder that is its repository."
    raise UsageError(f"looking for commit {commit.sha[:10]}", problem, hint)
