"""Text without the secrets in it: what is printed, logged or recorded of an address goes through.

Hidden are the user and password of an address, the values of parameters that are named like a
secret, what follows `Bearer`, private keys, tokens known by their shape, and every value that this
process was told to keep (`keep`). Errors (kaggleops.errors) and this package's log do it by
themselves.
"""

import logging
import re
import traceback
from urllib.parse import unquote

HIDDEN = "***"

# Tokens that say by their shape what they are, by what they are.
TOKENS = {
    "Google API key": r"AIza[\w-]{35}",
    "Google access token": r"ya29\.[\w-]{20,}",
    "Google refresh token": r"1//0[\w-]{30,}",
    "Google OAuth client secret": r"GOCSPX-[\w-]{20,}",
    "Kaggle token": r"KGAT_[0-9a-f]{32}",
    "RunPod key": r"rpa_[A-Za-z0-9]{40,}",
    "Hugging Face token": r"hf_[A-Za-z]{34}",
    "GitHub token": r"(?:gh[opsur]_[A-Za-z0-9]{36,}|github_pat_\w{50,})",
}

_NAMES = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|pwd|signature|credential"
    r"|api[_-]?key|access[_-]?key(?:id)?|private[_-]?key)"
    r"|key|sig|auth|authorization|code|jwt|upload_id"
)
# What stands before the @ in an address of S3 is the bucket's name.
_WEB = re.compile(r"(?i)\b(?<!s3\+)((?:(?:git\+|ssh\+)?https?|wss?|ftps?)://)[^\s/?#'\"<>`]*@")
# The driver takes what lies between the first colon and the last @, whatever it is.
_DATABASE = re.compile(
    r"(?i)\b([\w+]*(?:postgres|mysql|mariadb|mssql|oracle|mongodb|redis|amqp)[\w+]*:/{1,3}[^\s:/@'\"]*:)"
    r"[^\s'\"<>`]*@"
)
_OTHER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/?#@'\"<>`]*:)[^\s/?#'\"<>`]*@")
# Amazon's secret keys hold slashes; what follows the host of a service is its port.
_BUCKET = re.compile(
    r"(?i)\b((?:gs|s3(?:a|n|\+http)?)://(?:[^\s/@]*@)?[^\s:/@]*:)(?!\d+(?:/|$))[^\s'\"<>`]*@"
)
_PARAMETER = re.compile(rf"(?i)((?:[?&;#]|%3f|%26)(?:{_NAMES})(?:=|%3d))[^&\s'\"<>`#;)]+")
_CONNECTION = re.compile(r"(?i)(\b(?:ssl)?passw(?:or)?d\s?=\s?)(?:'[^']*'|[^\s&;,)'\"]+)")
_HEADER = re.compile(
    r"(?i)(\bBearer\s+|\bAuthorization['\"]?\s*[:=]\s*['\"]?(?:Basic|Token)\s+)[\w.~+/=-]{4,}"
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:(?=-----END)|\Z)", re.DOTALL)
_TOKEN = re.compile(rf"\b(?:{'|'.join(TOKENS.values())})")

_SHORTEST = 8  # characters of a value that is hidden wherever it stands
_kept: set[str] = set()


def keep(secret: str) -> str:
    """Hide a value wherever it stands from now on, and return it."""
    if len(secret) >= _SHORTEST:
        _kept.add(secret)
    return secret


def names_a_secret(name: str) -> bool:
    """Tell whether a variable or parameter is called what secrets are called."""
    return bool(re.fullmatch(rf"(?i)(?:{_NAMES})\w*|\w+_key", name))


def keep_login(address: str) -> str:
    """Hide the password of an address wherever it stands from now on, and return the address.

    It may hold what ends an address in other texts, such as blanks.
    """
    login = address.rpartition("@")[0].partition("://")[2]
    for password in {login.partition(":")[2], unquote(login.partition(":")[2])}:
        for each in (password, *password.split("@")):  # drivers end it at the first @, or the last
            keep(each)
    return address


def redacted(text: str) -> str:
    """Return a text, or an address, with `***` for each secret that can be told from it."""
    for secret in sorted(_kept, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern in (_WEB, _DATABASE, _BUCKET, _OTHER) if ":/" in text else ():
        text = pattern.sub(rf"\1{HIDDEN}@", text)
    for pattern in (_PARAMETER, _CONNECTION, _HEADER, _PRIVATE_KEY):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)))
        return True


# urllib3 warns of each request that it repeats, with its address.
for _name in ("kaggleops", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_Redacting())
