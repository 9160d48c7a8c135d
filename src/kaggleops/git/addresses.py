"""Addresses of repositories: without what must stay here, and where people read them."""

import re
from urllib.parse import urlsplit, urlunsplit

from kaggleops.redaction import redacted

_SSH = re.compile(r"(?:ssh://)?git@([\w.-]+)[:/](.+)")


def without_credentials(url: str) -> str:
    """Return a repository's address without the user, password, token or query it may carry.

    Whoever signs in by SSH does so with a key: that user stays, as it is part of the address.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that nothing closes
        return redacted(url)
    if not parts.netloc or parts.scheme == "file":
        return url
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme.endswith("ssh") and user:
        host = f"{user.partition(':')[0]}@{host}"
    return urlunsplit(parts._replace(netloc=host, query="", fragment=""))


def web_address(origin: str) -> str:
    """Return where a repository can be read in a browser; "" where that is not known."""
    if match := _SSH.fullmatch(origin):
        origin = f"https://{match[1]}/{match[2]}"
    try:
        parts = urlsplit(without_credentials(origin))
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or parts.hostname not in ("github.com", "gitlab.com"):
        return ""
    return f"https://{parts.hostname}{parts.path.removesuffix('/').removesuffix('.git')}"


def joined(base: str, url: str) -> str:
    """Return the address of a submodule, which may be relative to its repository's, as git does."""
    if not url.startswith(("./", "../")):
        return url
    base, between = base.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        step, _, url = url.partition("/")
        if step == "..":
            at = max(base.rfind("/"), base.rfind(":"))
            between, base = base[at : at + 1] or "/", base[: max(at, 0)]
    return f"{base}{between}{url}"
