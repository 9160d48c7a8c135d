"""Secrets in what is about to leave this machine: a patch, all files of a commit, or data.

Known by their shape: the detectors of Yelp's detect-secrets, what people of Kaggle, Google Cloud,
services like S3, RunPod, GitHub and Hugging Face have, addresses with a password, headers, and
values that a name calls a secret. Not by their entropy alone: hashes, ids and checksums are no
secrets. A line with `pragma: allowlist secret` (detect-secrets' own mark) is skipped.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from kaggleops.errors import UsageError
from kaggleops.redaction import TOKENS

_LOOKED_AT = 16 << 20  # bytes of one file that are looked through
_BINARY_WITHIN = 8000  # a NUL byte among so many of the first ones is how git tells a binary file
_ALLOWED = "pragma: allowlist secret"
_LONG, _OVERLAP = 4096, 512
"""Characters of one line that are looked at together: theirs take the square of its length."""

_SHOWN = 5

_LEFT_OUT = {
    "Base64HighEntropyString",
    "HexHighEntropyString",
    "IPPublicDetector",
    "KeywordDetector",  # any `password = "…"`; see _NAMED
    "BasicAuthDetector",  # see _ADDRESS
    "GitHubTokenDetector",  # ours knows all of them
    "ArtifactoryDetector",  # any word that begins with AP and a digit
    # Slow, two seconds for two megabytes; most of theirs are told by their names (_NAMED).
    *("CloudantDetector", "IbmCloudIamDetector", "IbmCosHmacDetector", "SoftlayerDetector"),
}

_QUOTE = r"\\?['\"]"
_SAID = r"[\w'\"\]\\ ]{0,20}[:=][ \t]{0,20}\\?['\"]?"
_IS = r"[ \t]{0,20}:[ \t]{0,20}"
_OURS = {
    **TOKENS,
    "Kaggle key": rf"{_QUOTE}key{_QUOTE}{_IS}{_QUOTE}[0-9a-f]{{32}}\b",
    "S3 secret access key": rf"(?i:secret_?access_?key){_SAID}"
    r"(?![\w/+]*EXAMPLE)[A-Za-z0-9/+]{31,128}(?![\w/+])",
    "Backblaze B2 key": r"(?<![\w/+])K00\d[A-Za-z0-9/+]{27}(?![\w/+])",
    "Cloudflare token": rf"(?i:(?:cloudflare|cf|r2)_(?:api_)?token){_SAID}[\w-]{{40,80}}(?![\w-])",
    "Google refresh token": rf"{_QUOTE}refresh_token{_QUOTE}{_IS}{_QUOTE}[^'\"\\\s]{{20,}}"
    rf"|\b{TOKENS['Google refresh token']}",
    "Weights & Biases key": rf"WANDB_API_KEY{_SAID}[0-9a-f]{{40}}\b",
}
# Bounded, so that no text makes them slow.
_ADDRESS = re.compile(
    r"\b[a-zA-Z][\w+.-]{0,30}://[^\s:/@'\"<>]{0,200}:([^\s@'\"<>]{4,200})@([\w.\[-]{1,200})"
)
_HEADER = re.compile(
    r"(?i)\b(?:Bearer|authorization\\?['\"]?\s?[:=]\s?\\?['\"]?\w{1,20})\s([\w.~+/=-]{20,})"
)
_NAMED = re.compile(
    r"(?i)(?:token|secret|passw(?:or)?d|api_?key|access_?key|private_?key|kaggle_key)(?:_\w{0,20})?"
    rf"(?:{_QUOTE})?\]?\s?[:=]\s?[a-z]?{_QUOTE}([^'\"\s\\]{{12,200}}){_QUOTE}"
)
_VARIABLE = re.compile(
    r"(?m)^\s*(?:export\s+)?\w*(?:TOKEN|SECRET|PASSW(?:OR)?D|PASS|PWD|KEY|CREDENTIALS)\w*"
    r"\s*=\s*['\"]?([^\s'\"#]{6,})"
)
_NETRC = re.compile(r"\bpassword\s+(\S{4,})")
_SETTINGS = re.compile(r"\.env(?!.*(?:example|sample|template|dist)).*|.*\.env|\.envrc")
_PLACEHOLDER = re.compile(
    r"(?i)^(?:[$%{<\[(]|\*|x{3,}|\.{3})|[{}<>…]|\*\*\*|example|sample|placeholder|dummy|change.?me|"
    r"redacted|your|fake|nobody-knows|s3cr3t|^(?:my|the)?_?(?:pass(?:word)?|secret|token|user|pw|none|true|false)$"
)
_HASH = re.compile(
    r"(?i)(?:sha\d+|md5)?[:=-]?(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f-]{36})"
)
_HERE = re.compile(
    r"localhost|127\.|0\.0\.0\.0|\[|(?:.*\.)?example(?:\.\w+)?$|.*\.(?:invalid|test)$"
)


@dataclass(frozen=True, order=True)
class Finding:
    """A secret, without its value."""

    file: str  # in which file
    line: int  # on which line, from 1
    kind: str  # what kind it is

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.kind}"


def in_file(name: str, data: bytes) -> list[Finding]:
    """Return the secrets in a file of that name, one for each line and kind."""
    encoding = "utf-16" if data[:2] in _UTF_16 else "utf-8"  # the former as PowerShell writes it
    text = data[:_LOOKED_AT].decode(encoding, errors="replace") + "\n"  # each line has an end
    lines: dict[int, set[str]] = {}
    basename = PurePosixPath(name).name
    for of, each in _pieces(text):
        for found, kind in _found(basename, each):
            at = of + found
            if _ALLOWED not in text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)]:
                lines.setdefault(text.count("\n", 0, at) + 1, set()).add(kind)
    return [Finding(name, line, " and ".join(sorted(lines[line]))) for line in sorted(lines)]


def in_patch(patch: bytes) -> list[Finding]:
    """Return the secrets in a patch of `git diff --text`, also in removed lines: they leave."""
    return sorted({
        Finding(name, numbers[each.line - 1], each.kind)
        for name, numbers, lines in _files(patch)
        for each in in_file(name, b"\n".join(lines))
    })  # fmt: skip


def in_data(name: str, path: Path) -> list[Finding]:
    """Return the secrets in a file of data, under a name; a binary one is skipped."""
    with path.open("rb") as opened:
        start = opened.read(_BINARY_WITHIN)
        if b"\0" in start and start[:2] not in _UTF_16:
            return []
        return in_file(name, start + opened.read(_LOOKED_AT - len(start)))


def refuse(
    found: Sequence[Finding], doing: str, instead: str = "or name the file in .gitignore"
) -> None:
    """Raise UsageError if there are secrets; `instead` is what else to do with their file."""
    if not found:
        return
    shown = "; ".join(str(each) for each in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    hint = f"Take them out, {instead}; --allow-secrets sends them all the same."
    raise UsageError(doing, f"there are secrets in it ({shown}{more})", hint)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the parts of a text in which no line is long, and where each begins."""
    start = 0
    for line in re.finditer(rf"[^\n]{{{_LONG},}}", text):
        yield start, text[start : line.start()]
        for at in range(line.start(), line.end(), _LONG - _OVERLAP):
            yield at, text[at : min(at + _LONG, line.end())]
        start = line.end()
    yield start, text[start:]


def _found(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield where each secret begins, and its kind."""
    from detect_secrets.plugins.jwt import JwtTokenDetector

    for kind, pattern in _shapes():
        for match in pattern.finditer(text):
            if kind != "JSON Web Token" or JwtTokenDetector.is_formally_valid(match.group()):
                yield match.start(), kind
    for match in _ADDRESS.finditer(text):
        if not _HERE.match(match[2]) and not _PLACEHOLDER.search(match[1]):
            yield match.start(), "password in an address"
    for named, kind in ((_HEADER, "token in a header"), (_NAMED, "value that is named a secret")):
        for match in named.finditer(text):
            if _looks_random(match[1]):
                yield match.start(), kind
    if _SETTINGS.fullmatch(name):
        for match in _VARIABLE.finditer(text):
            if not _PLACEHOLDER.search(match[1]) and not match[1].isdigit():
                yield match.start(1), "secret of the environment"
    if name in (".netrc", "_netrc"):
        yield from ((match.start(1), "password") for match in _NETRC.finditer(text))


@cache
def _shapes() -> list[tuple[str, re.Pattern[str]]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins: Mapping[str, Any] = get_mapping_from_secret_type_to_class()
    theirs = [
        (plugin.secret_type, pattern)
        for plugin in plugins.values()
        if plugin.__name__ not in _LEFT_OUT
        for pattern in plugin.denylist
    ]
    return [*theirs, *((kind, re.compile(pattern)) for kind, pattern in _OURS.items())]


def _looks_random(value: str) -> bool:
    """Tell a generated value from a word, a name, a placeholder, and a checksum."""
    mixed = re.search(r"\d", value) and re.search(r"[a-zA-Z]", value)
    checksum = _HASH.fullmatch(value) and not re.fullmatch(r"[0-9a-f]{32}", value)
    if _PLACEHOLDER.search(value) or not mixed or checksum:
        return False
    shares = [value.count(each) / len(value) for each in set(value)]
    return -sum(share * math.log2(share) for share in shares) > 2.5


_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_HUNK = re.compile(rb"@@ -(\d+)[^+]*\+(\d+)")


def _files(patch: bytes) -> Iterator[tuple[str, list[int], list[bytes]]]:
    """Yield each file of a patch: its name, its lines' numbers, and these lines."""
    # No line of a file's own is at the beginning of a line of the patch.
    for section in re.split(rb"(?m)^(?=diff --git )", patch):
        head, *hunks = re.split(rb"(?m)^(?=@@ )", section)
        names = [_name(each) for each in re.findall(rb"(?m)^(?:---|\+\+\+) (.*)", head)]
        numbers, lines = [], []
        for hunk in hunks:
            title, *content = hunk.removesuffix(b"\n").split(b"\n")
            old, new = map(int, _HUNK.findall(title)[0])
            for line in content:
                # "" of a blank line under diff.suppressBlankEmpty, which is a person's to set.
                if (sign := line[:1]) in (b" ", b"+", b"-", b""):
                    numbers.append(old if sign == b"-" else new)
                    lines.append(line[1:])
                    old, new = old + (sign != b"+"), new + (sign != b"-")
        if lines:
            yield next(filter(None, reversed(names)), ""), numbers, lines


def _name(said: bytes) -> str:
    """Return a file's name as git quotes it in a patch; "" for none."""
    name = said.rstrip(b"\t")
    if name.startswith(b'"'):
        name = name[1:-1].decode("unicode_escape").encode("latin-1")
    return "" if name == b"/dev/null" else name.partition(b"/")[2].decode(errors="replace")
