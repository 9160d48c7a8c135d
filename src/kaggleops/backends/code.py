"""Where another machine gets a commit from: its repository, or a bundle in the bucket."""

from urllib.parse import urlsplit

from kaggleops.bucket import open_bucket
from kaggleops.errors import UsageError
from kaggleops.git.addresses import joined, web_address
from kaggleops.git.bundles import key_of, send
from kaggleops.git.checkouts import can_fetch
from kaggleops.git.commits import Commit, submodules

_OPEN = ("http", "https", "git")  # others take a key or a disk that only this machine has


def anybody_can_fetch(commit: Commit) -> bool:
    """Tell whether a machine without this one's keys can fetch a commit and its submodules."""
    # `git@github.com:…` takes a key, and https://github.com/… may not.
    address = web_address(commit.origin) or commit.origin
    return _is_open(address, commit.sha) and all(
        _is_open(joined(address, url), sha)
        for _, sha, url in submodules(commit.repository, commit.sha)
        if url
    )


def _is_open(address: str, sha: str) -> bool:
    return urlsplit(address).scheme in _OPEN and can_fetch(address, sha)


def address_for_others(commit: Commit, bucket_uri: str, *, allow_secrets: bool = False) -> str:
    """Return the repository's address for a machine without this one's keys.

    A commit that such a machine cannot fetch there (private, not pushed) goes into the bucket,
    where `kaggleops.git.bundles` looks for it next.

    Args:
        commit: one that is in a repository on this machine.
        bucket_uri: the bucket's address.
        allow_secrets: whether its files may hold secrets.

    Raises:
        KaggleOpsError: it can be neither fetched nor bundled.
    """
    address = web_address(commit.origin) or commit.origin
    if anybody_can_fetch(commit):
        return address
    send(commit, open_bucket(bucket_uri), allow_secrets=allow_secrets)
    return address or commit.repository.name


def address_of_known(commit: Commit, bucket_uri: str) -> str:
    """Return the repository's address for a commit that this machine may not have.

    Args:
        commit: what a run's tags say of it.
        bucket_uri: the bucket's address.

    Raises:
        UsageError: it can neither be fetched nor is it in the bucket.
    """
    address = web_address(commit.origin) or commit.origin
    if _is_open(address, commit.sha):
        return address
    if open_bucket(bucket_uri).stat(key_of(commit.sha)) is None:
        raise UsageError(
            f"looking for commit {commit.sha[:10]}",
            f"not everybody can fetch it from {address or 'a remote'}, and {bucket_uri} has none",
            "Push it, or submit it anew from its repository: `kaggleops run`.",
        )
    return address or "bundle"
