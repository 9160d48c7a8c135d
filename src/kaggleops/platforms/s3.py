"""Access keys of whatever service speaks Amazon's S3 protocol.

S3 itself has no call that makes a key, and each service has its own: so somebody makes it by hand,
as little as the service can do, and it is tried here before a platform gets it.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from kaggleops.bucket import ABSENT, AccessDeniedError, BucketError, open_bucket
from kaggleops.bucket.location import S3_KEY, name_and_prefix, service_url
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import DOCTOR, SERVER
from kaggleops.platforms.keys import Content, Key, Keys, NotThisWayError, key_in, made_keys
from kaggleops.redaction import keep

if TYPE_CHECKING:
    from kaggleops.bucket.s3 import S3Bucket

_PATIENCE = 30.0
_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
}
_BY_NAME = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")


class Service(NamedTuple):
    """Where a service's keys are made."""

    name: str
    host: str  # what its hosts end in
    page: str  # where keys are made and deleted; "" where each installation has its own
    steps: str  # how, with places for `bucket` and `policy`


# Read on 2026-11-29: developers.cloudflare.com/r2/api/tokens and docs.aws.amazon.com/IAM.
_R2 = Service(
    "Cloudflare R2",
    ".r2.cloudflarestorage.com",
    "https://dash.cloudflare.com/?to=/:account/r2/api-tokens",
    "Create an Account API token: Permissions: Object Read & Write; Specify buckets: apply to "
    "specific buckets only: {bucket}. (R2 limits a token to buckets, not to a prefix.)",
)
_AMAZON = Service(
    "Amazon S3",
    ".amazonaws.com",
    "https://console.aws.amazon.com/iam/home#/users",
    "Create a user without console access, add this inline policy to it, and create an access key "
    "of it:\n\n{policy}",
)
_OTHER = Service(
    "the service",
    "",
    "",
    "Make an access key for the bucket {bucket} alone. Where the service takes policies as "
    "Amazon's IAM has them (MinIO: mc admin user svcacct add ALIAS USER --policy FILE), with this "
    "one:\n\n{policy}",
)


def policy(bucket: str, prefix: str) -> dict[str, Any]:
    """Return Amazon's policy of a key that can do what a runner has to, and nothing else."""
    below = f"arn:aws:s3:::{bucket}/{prefix}/" if prefix else f"arn:aws:s3:::{bucket}/"
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": objects, "Resource": f"{below}*"},
            # Of the whole bucket: with a condition on the prefix, S3 would answer 403 instead of
            # 404 where an object is not there.
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
            # A server installs, as root, what lies there.
            {"Effect": "Deny", "Action": "s3:*", "Resource": f"{below}{SERVER}/*"},
        ],
    }  # fmt: skip


class S3Keys(Keys):
    """What opens an s3:// bucket; `owner` is its address."""

    title = "S3 access key"
    variable = "AWS_SHARED_CREDENTIALS_FILE"
    form = r"(?m)^\[default\]\s*$"
    form_in_words = "a profile [default] as in ~/.aws/credentials"

    @property
    def service(self) -> Service:
        """The service that has the bucket."""
        host = urlsplit(service_url(self.owner)).hostname or ""
        return next((each for each in (_R2, _AMAZON) if host.endswith(each.host)), _OTHER)

    # -- in a process that signs in -----------------------------------------------------------

    def already_there(self) -> str:
        return _found("iam-role")

    def at_last(self, own_machine: bool) -> str:
        return _found() if own_machine else ""

    @property
    def hint(self) -> str:
        made = f" {self.service.name} makes one: {self.service.page}" if self.service.page else ""
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write both into a profile of "
            f"~/.aws/credentials and name that in AWS_PROFILE.{made}"
        )

    @classmethod
    def takes(cls, key: Content) -> bool:
        return bool(key["type"] == S3_KEY)

    @classmethod
    def for_clients(cls, key: Content) -> str:
        names = [name for name in _VARIABLES if key.get(name)]
        lines = (f"{'' if name == 'region' else 'aws_'}{name} = {key[name]}" for name in names)
        return "\n".join(["[default]", *lines, ""])

    def use(self, key: Content, file: Path) -> None:
        super().use(key, file)
        keep(str(key["secret_access_key"]))
        for name in _BY_NAME:  # a profile that this file has not
            os.environ.pop(name, None)

    # -- on the machine of whoever makes keys -------------------------------------------------

    @property
    def steps(self) -> str:
        """How somebody makes a key of the bucket by hand."""
        bucket, prefix = name_and_prefix(self.owner)
        rules = json.dumps(policy(bucket, prefix), indent=2)
        how = self.service.steps.format(bucket=bucket, policy=rules)
        begin = f"A key of {self.owner} is made at {self.service.name}, not by this command:"
        return "\n".join(filter(None, [begin, self.service.page, how]))

    def create(self, given: Callable[[], str]) -> tuple[str, Content]:
        doing = f"taking a key of {self.owner}"
        key = key_in(given())
        if key is None or not self.takes(key):
            hint = "It is JSON, or lines such as AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…"
            raise UsageError(doing, f"that is no {self.title}", hint)
        keep(str(key["secret_access_key"]))
        if not key.get("region") and "@" not in self.owner:  # Amazon's, which no runner knows
            key = {**key, "region": opened(self.owner).client.meta.region_name}
        key_id = str(key["access_key_id"])
        others = [each.platform for each in made_keys() if each.id == key_id]
        if others:
            hint = "Make one more: then each can be deleted without the others."
            raise UsageError(doing, f"{others[0]} has that key already", hint)
        return key_id, key

    def can_too_much(self, key: Content) -> list[str]:
        probe = f"{DOCTOR}/{secrets.token_hex(8)}"
        with _signed_in(key):
            bucket = opened(self.owner)
            try:
                version = bucket.write(probe, b"Can this be written?", expected=ABSENT)
                bucket.read(probe)
                next(bucket.list(f"{DOCTOR}/"), None)
                bucket.delete(probe, expected=version)
                bucket.stat(probe)  # some keys are refused what is not there
            except AccessDeniedError as error:
                hint = "Make it as the steps say, for this bucket."
                raise UsageError("trying the key", error.problem, hint) from error
            return list(_more_than_needed(bucket, self.owner, probe))

    def listed(self) -> list[Key]:
        # What else there is, only the service's own page shows.
        return [Key(each.id, "") for each in made_keys() if each.account == self.owner]

    def delete(self, key_id: str) -> str:
        where = f" at {self.service.page}" if self.service.page else ""
        return f"Now delete the key {key_id}{where}: until then it opens {self.owner}."


def opened(uri: str) -> "S3Bucket":
    """Return an s3:// bucket, for a command that somebody is waiting for.

    Raises UsageError if it is no such address.
    """
    from kaggleops.bucket.s3 import S3Bucket

    bucket = open_bucket(uri, patience=_PATIENCE)
    assert isinstance(bucket, S3Bucket)  # noqa: S101 - the caller has looked
    return bucket


def create_bucket(bucket: "S3Bucket") -> None:
    """Make a bucket; UsageError where the service does not let the machine's own key do that."""
    from kaggleops.bucket.s3_client import explain

    doing = f"creating {bucket.uri}"
    region = bucket.client.meta.region_name
    # Amazon's oldest region must not be named; R2 knows none.
    named = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        bucket.ask("create_bucket", None, **({} if region in ("us-east-1", "auto") else named))
    except Exception as error:
        problem = explain(error, doing, bucket.uri)
        if not isinstance(problem, KaggleOpsError):
            raise
        hint = "Create it on the service's own page, and run the same command again."
        raise UsageError(doing, problem.problem, hint) from error


def _more_than_needed(bucket: "S3Bucket", uri: str, probe: str) -> Iterator[str]:
    """Yield what of all that no runner needs can be done; nothing of it stays."""
    from botocore.exceptions import ClientError

    with suppress(ClientError):
        bucket.client.list_buckets()
        yield "list the account's buckets"
    _, prefix = name_and_prefix(uri)
    root = opened(uri.removesuffix(f"/{prefix}")) if prefix else None
    for place, key, what in (
        (root, probe.replace("/", "-"), f"write outside of {prefix}/"),
        (bucket, f"{SERVER}/{probe}", f"write to {SERVER}/, from which a server installs"),
    ):
        if place is not None:
            with suppress(ClientError, BucketError):
                place.ask("put_object", key, Body=b"", IfNoneMatch="*")
                place.ask("delete_object", key)
                yield what


@contextmanager
def _signed_in(key: Content) -> Iterator[None]:
    """Let S3's clients use a key, and no other, meanwhile."""
    names = (*_VARIABLES.values(), *_BY_NAME)
    before = {name: os.environ[name] for name in names if name in os.environ}
    for name in names:
        if name != "AWS_REGION":  # which counts as anybody's does (`Endpoint.region`)
            os.environ.pop(name, None)
    os.environ |= {_VARIABLES[name]: key[name] for name in _VARIABLES if key.get(name)}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ |= before


def _found(*but: str) -> str:
    """Return in words which credentials AWS's clients find, but for those of some providers."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        doing, problem = "opening an s3:// bucket", f"{error.name} is not installed"
        raise UsageError(doing, problem, "pip install 'kaggleops[s3]'") from None
    session = Session()
    try:
        providers = session.get_component("credential_provider")
        for each in but:
            providers.remove(each)
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise NotThisWayError(re.sub(r"\s+", " ", str(error))) from None
    if credentials is None:
        return ""
    if credentials.method == "env":
        return "AWS_ACCESS_KEY_ID of the environment"
    where = f"profile {session.profile or 'default'}"
    return f"AWS credentials, {where} ({credentials.method})"
