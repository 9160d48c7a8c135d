"""Running git: in an environment that is made here, whatever started this process.

An alias, a hook or an editor says through the environment which repository is meant, and a person's
settings change what git does and prints. Neither counts here. Kept is what reaches a remote:
proxies, certificates, credentials, SSH.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaggleops.errors import KaggleOpsError
from kaggleops.git.addresses import without_credentials
from kaggleops.redaction import keep

_NOT_INHERITED = re.compile(
    r"""GIT_(?:
    # which repository is meant, and what is in it
    DIR | WORK_TREE | COMMON_DIR | INDEX_FILE | OBJECT_DIRECTORY | ALTERNATE_OBJECT_DIRECTORIES |
    NAMESPACE | PREFIX | CEILING_DIRECTORIES | IMPLICIT_WORK_TREE | (?:INTERNAL_)?SUPER_PREFIX |
    GRAFT_FILE | SHALLOW_FILE | REPLACE_REF_BASE | NO_REPLACE_OBJECTS | QUARANTINE_PATH | CONFIG |
    ATTR_SOURCE | TEMPLATE_DIR | DEFAULT_HASH | (?:DEFAULT_)?REF_FORMAT | REFERENCE_BACKEND |
    NO_LAZY_FETCH | PROTOCOL |
    # what is done with it, and what is printed
    \w+_PATHSPECS | EXTERNAL_DIFF\w* | DIFF_OPTS | PAGER\w* | REFLOG_ACTION | ADVICE | FLUSH |
    TRACE\w* | CURL_VERBOSE)""",
    re.VERBOSE,
)
_PERSONAL = re.compile(r"GIT_(ASKPASS|SSH.*|SSL_(CERT|KEY).*|CONFIG.*)|SSH_ASKPASS|NETRC")
"""What can hold or fetch this person's credentials."""

_FIXED = (
    "clone.rejectShallow=false",
    "core.abbrev=auto",
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "core.quotePath=false",
    "core.safecrlf=false",
    "core.splitIndex=false",
    "fetch.prune=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "i18n.logOutputEncoding=UTF-8",
    "init.defaultObjectFormat=sha1",
    "init.defaultRefFormat=files",
    "maintenance.auto=false",
    "protocol.version=2",  # gives out any commit that is asked for by its hash
    "safe.bareRepository=all",
    "submodule.recurse=false",
)
"""Settings that count more than a person's."""

AS_COMMITTED = {
    "apply.ignoreWhitespace": "no",
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "native",
    "core.symlinks": "true",
}
"""Settings that write files as they were committed."""

_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    '"$KAGGLEOPS_GIT_USER" "$KAGGLEOPS_GIT_PASSWORD"; }; f'
)
"""A credential helper that answers from the environment of this one git process."""


class GitError(KaggleOpsError):
    """Git could not do what was asked of it."""


def not_inherited() -> list[str]:
    """Return the names in this process's environment that no git of ours may inherit."""
    return [name for name in os.environ if _NOT_INHERITED.fullmatch(name)]


def git(
    folder: Path,
    *arguments: str,
    check: bool = True,
    config: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    url: str = "",
    anonymous: bool = False,
    given: str = "",
) -> str:
    """Run git in a folder and return what it printed, without the last line's end.

    Args:
        folder: where.
        arguments: of git.
        check: whether a failure is a `GitError`; else "" is returned.
        config: settings for this once; others can read them.
        environment: variables for this once.
        url: the address of the remote that `arguments` call "source", or of one of the
            repository's own. What it carries of credentials reaches git through its environment:
            others can read command lines.
        anonymous: whether to ask as anybody would, without this person's credentials.
        given: its standard input.
    """
    made = _environment(folder if anonymous else None)
    login, settings = _login(url) if url else ({}, {})
    if anonymous:
        settings |= {"credential.helper": "", **_way_through(folder, url)}
    made |= {**login, **(environment or {})}
    _add_settings(made, settings)
    # On the command line they count more than what `git -c` has left in the environment.
    ours = [*_FIXED, *(f"{key}={value}" for key, value in (config or {}).items())]
    fixed = [word for each in ours for word in ("-c", each)]
    doing = f"running git {arguments[0]} in {folder}"
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *fixed, *arguments],
            input=given.encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
            env=made,
        )
    except FileNotFoundError as error:
        raise GitError(doing, "git is not installed", "Install git and try again.") from error
    if done.returncode == 0:
        # By hand: a carriage return in a message or in a file's name ends no line.
        unknown = "surrogateescape" if "-z" in arguments else "replace"
        return done.stdout.decode(errors=unknown).rstrip("\n")
    problem = done.stderr.decode(errors="replace")
    if "dubious ownership" in problem:
        hint = f"If you do: git config --global --add safe.directory {folder}"
        trust = "git does not trust this folder, as it belongs to another user"
        raise GitError(doing, trust, hint)
    if check:
        raise GitError(doing, problem.strip() or f"it failed ({done.returncode})")
    return ""


def _environment(nobody: Path | None) -> dict[str, str]:
    left_out = set(not_inherited())
    if nobody:
        left_out |= {name for name in os.environ if _PERSONAL.fullmatch(name)}
    made = {name: value for name, value in os.environ.items() if name not in left_out}
    # No prompt may block a run that nobody watches; messages in English for our own errors.
    made |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    made |= {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_ATTR_NOSYSTEM": "1"}
    if nobody:  # ~/.gitconfig, ~/.netrc, ~/.git-credentials
        made |= {"HOME": str(nobody), "XDG_CONFIG_HOME": str(nobody), "GIT_CONFIG_NOSYSTEM": "1"}
    return made


def _add_settings(environment: dict[str, str], settings: Mapping[str, str]) -> None:
    """Add settings to those that somebody has put into the environment already."""
    known = environment.get("GIT_CONFIG_COUNT", "")
    first = int(known) if known.isdigit() else 0
    for number, (key, value) in enumerate(settings.items(), first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        environment["GIT_CONFIG_COUNT"] = str(number + 1)


def _login(url: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables and settings with which git reaches an address."""
    clean, parts = without_credentials(url), urlsplit(url)
    settings = {"remote.source.url": clean}
    user, found, password = parts.netloc.rpartition("@")[0].partition(":")
    if clean == url or not user:
        return {}, settings
    settings[f"url.{clean}.insteadOf"] = url
    scope = f"credential.{parts.scheme}://{urlsplit(clean).netloc}"
    if not found:
        return {}, {**settings, f"{scope}.username": unquote(user)}
    login = {
        "KAGGLEOPS_GIT_USER": unquote(user),
        "KAGGLEOPS_GIT_PASSWORD": keep(unquote(password)),
    }
    # No helper of the person's is asked, nor told to store what it was not given.
    return login, {**settings, "credential.helper": "", f"{scope}.helper": _HELPER}


def _way_through(folder: Path, url: str) -> dict[str, str]:
    """Return the person's settings (a proxy, say) that an address cannot be reached without."""
    asked = ("config", "--null", "--get-urlmatch", "http", without_credentials(url))
    listed = git(folder, *asked, check=False).split("\0")
    found = (each.partition("\n") for each in listed)
    wanted = re.compile(r"http\.(proxy|sslcainfo|sslcapath|sslverify|sslbackend)")
    return {key: value for key, _, value in found if wanted.fullmatch(key)}
