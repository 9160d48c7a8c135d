"""What people type for a bucket."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.bucket.location import (
    artifact_uri_of,
    at_its_service,
    bucket_uri,
    console_url,
    open_bucket,
    tracking_uri,
)
from kaggleops.bucket.s3_client import Endpoint
from kaggleops.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("gs://my-bucket", "gs://my-bucket"),
        ("gs://my-bucket/", "gs://my-bucket"),
        ("gs://my-bucket/mlruns", "gs://my-bucket"),
        ("gs://my-bucket//mlruns/", "gs://my-bucket"),
        ("gs://my-bucket/a/b/", "gs://my-bucket/a/b"),
        ("gs://my-bucket/a b/ü%20/mlruns", "gs://my-bucket/a b/ü%20"),
        ("gs://mlruns", "gs://mlruns"),
        ("gs://mlruns/mlruns", "gs://mlruns"),
        ("GS://my_bucket.example.com", "gs://my_bucket.example.com"),
        ("  gs://my-bucket\n", "gs://my-bucket"),
        ("s3://my-bucket/mlruns", "s3://my-bucket"),
        (
            "S3://my-bucket@S3.eu-west-1.Example.com/a/b/",
            "s3://my-bucket@s3.eu-west-1.example.com/a/b",
        ),
        ("s3+http://my-bucket@localhost:9000/p", "s3+http://my-bucket@localhost:9000/p"),
        ("s3://my-bucket@[::1]:9000", "s3://my-bucket@[::1]:9000"),
        ("s3://b-1/p?endpoint=https://s3.example.com/", "s3://b-1@s3.example.com/p"),
        ("s3://b-1/p/mlruns?endpoint_url=http://host:9000", "s3+http://b-1@host:9000/p"),
        ("s3://b-1@s3.example.com?endpoint_override=s3.example.com", "s3://b-1@s3.example.com"),
        ("bucket+file:///data/b", "bucket+file:///data/b"),
        ("bucket+file:///data/b/", "bucket+file:///data/b"),
        ("bucket+file:///data/b/mlruns", "bucket+file:///data/b"),
        ("bucket+file:///data/b/mlruns/mlruns/", "bucket+file:///data/b"),
        ("bucket+file:////data//b", "bucket+file:///data/b"),
        ("bucket+file:///a%20b/100%25/ü", "bucket+file:///a%20b/100%25/%C3%BC"),
        ("bucket+file:///a b/c#d?e", "bucket+file:///a%20b/c%23d%3Fe"),
        ("/data/b", "bucket+file:///data/b"),
        ("//data/b/mlruns", "bucket+file:///data/b"),
        ("/a b/100%25/ü", "bucket+file:///a%20b/100%2525/%C3%BC"),
        ("/data/../other/./b", "bucket+file:///other/b"),
        ("~/b", "bucket+file:///home/me/b"),
        ("~", "bucket+file:///home/me"),
    ],
)
def test_what_an_address_comes_to(monkeypatch: pytest.MonkeyPatch, typed: str, uri: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert bucket_uri(typed) == uri
    assert bucket_uri(uri) == uri
    assert tracking_uri(typed) == f"{uri}/mlruns"
    assert bucket_uri(tracking_uri(typed)) == uri
    bucket = open_bucket(typed)
    assert bucket.uri == uri
    plain = re.sub(r"^s3(\+http)?://([^/@]+)(@[^/]+)?", r"s3://\2", uri).removeprefix("bucket+")
    assert bucket.artifact_uri == artifact_uri_of(uri) == plain


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("b/c", "here/b/c"),
        ("./mlruns", "here"),
        ("mlruns", "here"),
        ("../b/", "b"),
        (".", "here"),
        ("a:b", "here/a:b"),
        ("link/b", "here/link/b"),
    ],
)
def test_a_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: str, path: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    assert bucket_uri(typed) == "bucket+" + (tmp_path / path).as_uri()


@pytest.mark.parametrize(
    ("typed", "problem", "hint"),
    [
        ("", "its address is empty", ""),
        ("  ", "its address is empty", ""),
        ("s3://b", "'b' cannot be the name of a bucket", ""),
        ("s3://", "'' cannot be the name of a bucket", ""),
        ("s3:my-bucket", "it lacks slashes", "Did you mean s3://my-bucket?"),
        ("s3a://my-bucket/p", "unsupported bucket scheme s3a://", "Did you mean s3://my-bucket/p?"),
        ("s3+http://my-bucket", "its host is missing", ""),
        ("s3://my-bucket@", "its host is missing", ""),
        ("s3://my-bucket@exa mple", "'exa mple' cannot be the host of a service", ""),
        ("http://localhost:5000", "unsupported bucket scheme http://", ""),
        ("https://example.com/runs", "unsupported bucket scheme https://", "Use gs://"),
        ("sqlite:///mlflow.db", "unsupported bucket scheme sqlite://", ""),
        ("gcs://b/p", "scheme gcs://", "Did you mean gs://b/p?"),
        ("file:///data/b", "bucket scheme file://", "Did you mean bucket+file:///data/b?"),
        ("bucket-file:///b", "bucket scheme bucket-file://", "Did you mean bucket+file:///b?"),
        ("s3+http://nas:9000/runs", "'nas:9000' is the host", "mean s3+http://runs@nas:9000?"),
        (
            "s3://a1.r2.cloudflarestorage.com/runs",
            "'a1.r2.cloudflarestorage.com' is the host of a service, not a bucket",
            "Did you mean s3://runs@a1.r2.cloudflarestorage.com?",
        ),
        ("gs:/my-bucket/p", "it lacks slashes", "Did you mean gs://my-bucket/p?"),
        ("gs:my-bucket", "it lacks slashes", "Did you mean gs://my-bucket?"),
        ("bucket+file:/data/b", "it lacks slashes", "Did you mean bucket+file:///data/b?"),
        ("gs://", "'' cannot be the name of a bucket", ""),
        ("gs:///p", "'' cannot be the name of a bucket", ""),
        ("gs://My-Bucket", "'My-Bucket' cannot be the name of a bucket", "lower-case"),
        ("gs://ab", "'ab' cannot be", "3 to 63"),
        ("gs://" + "a" * 64, "cannot be the name of a bucket", ""),
        ("gs://-abc", "cannot be the name of a bucket", ""),
        ("gs://a..bc", "cannot be the name of a bucket", ""),
        ("gs://192.168.5.4", "cannot be the name of a bucket", ""),
        ("gs://me@bucket", "cannot be the name of a bucket", ""),
        ("gs://my-bucket/../other", "the prefix '../other' cannot be", ""),
        ("gs://my-bucket/a?b", "the prefix 'a?b' cannot be", ""),
        ("gs://my-bucket/a#b", "the prefix 'a#b' cannot be", ""),
        ("gs://my-bucket/latin-\udcfc", "cannot be part of an object's name", ""),
        ("gs://my-bucket/" + "p" * 124, "its prefix is longer than 123 bytes", ""),
        ("bucket+file://", "'' is not the path of a folder", ""),
        ("bucket+file://data/b", "'data/b' is not the path of a folder", ""),
        ("bucket+file://~/b", "'~/b' is not the path of a folder", ""),
        ("bucket+file:///data/../b", "it begins with a slash and has no '..'", ""),
        ("bucket+file:///data/%2E%2E/b", "'/data/../b' is not the path", ""),
        ("bucket+file:///a%00b", "the path contains a NUL character", ""),
        ("bucket+file:///", "that is the root of the file system", ""),
        ("/mlruns", "that is the root of the file system", ""),
        ("~nobody-of-that-name/b", "Could not determine home directory", ""),
    ],
)
def test_what_is_no_address(
    monkeypatch: pytest.MonkeyPatch, typed: str, problem: str, hint: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for use in (bucket_uri, tracking_uri, open_bucket):
        with pytest.raises(UsageError) as raised:
            use(typed)
        assert problem in raised.value.problem
        assert hint in raised.value.hint
        known = (
            "Use gs://BUCKET[/PREFIX], s3://BUCKET[@HOST][/PREFIX], bucket+file:///FOLDER, or the "
            "path of a folder."
        )
        assert raised.value.hint.endswith(known)
        assert "\n" not in str(raised.value)


def test_an_endpoint_beside_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    there = "s3://runs@acc.r2.cloudflarestorage.com"
    assert bucket_uri("s3://runs", endpoint="https://acc.r2.cloudflarestorage.com") == there
    assert bucket_uri(there, endpoint="https://acc.r2.cloudflarestorage.com/") == there
    assert bucket_uri("s3://runs", endpoint="https://acc.r2.cloudflarestorage.com/runs/") == there
    with pytest.raises(
        UsageError, match=r"it names the host acc.r2.*and the endpoint is https://e"
    ):
        bucket_uri(there, endpoint="https://elsewhere.example.com")
    for url in ("https://example.com/path", "ftp://example.com", "https://"):
        with pytest.raises(UsageError, match=r"is no URL of a service\. It looks like https://ACC"):
            bucket_uri("s3://runs", endpoint=url)
    in_paris = "s3://runs@s3.eu-west-3.amazonaws.com"
    assert bucket_uri("s3://runs", region="eu-west-3") == in_paris
    assert bucket_uri(in_paris, region="us-east-2") == in_paris
    assert bucket_uri(there, region="eu-west-3") == there
    assert bucket_uri("gs://runs", region="eu-west-3") == "gs://runs"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other.example.com")
    assert bucket_uri("s3://runs", region="eu-west-3") == "s3://runs@other.example.com"
    assert bucket_uri("s3://runs/p") == "s3://runs@other.example.com/p"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    assert bucket_uri("s3://runs/p") == "s3+http://runs@minio:9000/p"
    assert bucket_uri(there) == there
    with pytest.raises(UsageError, match="it has the option 'profile'"):
        bucket_uri("s3://runs?profile=me")


def test_the_endpoint_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(
        "[default]\nendpoint_url = https://one.example.com\n"
        "[profile mine]\nservices = mine\n"
        "[services mine]\ns3 =\n  endpoint_url = https://two.example.com\n"
    )
    assert bucket_uri("s3://runs") == "s3://runs@one.example.com"
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert bucket_uri("s3://runs/p") == "s3://runs@two.example.com/p"
    assert bucket_uri("s3://runs@s3.example.com") == "s3://runs@s3.example.com"
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    assert bucket_uri("s3://runs") == "s3://runs"


@pytest.mark.parametrize("file", ["~nobody-of-that-name/config", "."])
def test_a_profile_that_cannot_be_read_names_no_endpoint(
    monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", file)
    assert bucket_uri("s3://runs") == "s3://runs"


def test_another_place_of_a_bucket_is_at_the_same_service() -> None:
    known = "s3+http://runs@minio:9000/here"
    for location, meant in (
        ("s3://runs/there/x", "s3+http://runs@minio:9000/there/x"),
        ("s3://runs-2/there/x", "s3://runs-2/there/x"),
        ("gs://runs/there/x", "gs://runs/there/x"),
    ):
        assert at_its_service(location, "gs://runs", known) == meant


def test_no_message_repeats_a_key_that_stands_in_an_address() -> None:
    for typed in (
        "s3://AKIAME:word-nobody-knows@my-bucket/p",
        "s3+http://me:word-nobody-knows@h:9",
        "s3://AKIAME:word/nobody-knows@my-bucket/p",
        "s3://AKIAME:word-nobody-knows",
        "s3://my-bucket@AKIAME:word-nobody-knows@h",
        "s3://my-bucket@AKIAME:word/nobody-knows@h",
        "s3:/AKIAME:word/nobody-knows@my-bucket",
        "s3a://AKIAME:word/nobody-knows@my-bucket",
        "gs://AKIAME:word/nobody-knows@my-bucket",
        "https://AKIAME:word/nobody-knows@minio:9000/my-bucket",
    ):
        with pytest.raises(UsageError, match="its address has a colon, as if it held an") as raised:
            bucket_uri(typed)
        assert "nobody" not in str(raised.value)
    with pytest.raises(UsageError, match="the endpoint is no URL of a service") as raised:
        bucket_uri("s3://my-bucket", endpoint="https://me:word-nobody-knows@example.com")
    assert "nobody" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("", None),
        ("s3.amazonaws.com", None),
        ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3.dualstack.us-west-2.amazonaws.com", "us-west-2"),
        ("acc.r2.cloudflarestorage.com", "auto"),
        ("acc.eu.r2.cloudflarestorage.com", "auto"),
        ("s3.fr-par.scw.cloud", "fr-par"),
        ("s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("nyc3.digitaloceanspaces.com", "nyc3"),
        ("fsn1.your-objectstorage.com", "fsn1"),
        ("localhost:9000", None),
        ("minio.example.com", None),
    ],
)
def test_the_region_that_a_host_names(
    monkeypatch: pytest.MonkeyPatch, host: str, region: str | None
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert Endpoint("https", host).region == region
    monkeypatch.setenv("AWS_DEFAULT_REGION", "mars-1")
    certain = host.endswith((".r2.cloudflarestorage.com", ".amazonaws.com")) and region
    assert Endpoint("https", host).region == (certain or "mars-1")


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
    ).filter(lambda parts: not {".", "..", "mlruns"} & set(parts))
)
def test_any_path_comes_back(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    uri = bucket_uri(Path(path).as_uri().replace("file:", "bucket+file:", 1))
    assert uri == "bucket+" + Path(path).as_uri()
    assert bucket_uri(uri) == uri
    assert bucket_uri(tracking_uri(uri)) == uri
    assert uri.isascii()
    assert not set(uri) & set(" ?#")
    if path == path.strip():
        assert bucket_uri(path) == uri


def test_opening_a_folder_does_not_import_google() -> None:
    code = (
        "import sys; from kaggleops.bucket import open_bucket\n"
        "open_bucket('/data/b'); sys.exit('google.cloud.storage' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


ACCOUNT = "ab12" * 8


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("gs://b/p/a b", "https://console.cloud.google.com/storage/browser/b/p/a%20b"),
        ("s3://b", "https://console.aws.amazon.com/s3/buckets/b"),
        (
            "s3://b@s3.eu-central-1.amazonaws.com/p/q",
            "https://console.aws.amazon.com/s3/buckets/b?prefix=p%2Fq%2F",
        ),
        (
            f"s3://b@{ACCOUNT}.r2.cloudflarestorage.com/p",
            f"https://dash.cloudflare.com/{ACCOUNT}/r2/default/buckets/b?prefix=p%2F",
        ),
        (
            f"s3://b@{ACCOUNT}.eu.r2.cloudflarestorage.com",
            f"https://dash.cloudflare.com/{ACCOUNT}/r2/eu/buckets/b",
        ),
        ("s3://b@storage.example.com/p", ""),
        ("s3+http://b@127.0.0.1:9000/p", ""),
        ("bucket+file:///b", ""),
    ],
)
def test_the_page_that_a_service_has_of_a_place(uri: str, page: str) -> None:
    assert console_url(uri) == page
