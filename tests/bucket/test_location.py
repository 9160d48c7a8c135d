"""What people type for a bucket."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.bucket.location import bucket_uri, open_bucket, tracking_uri
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
    assert bucket.artifact_uri == uri.removeprefix("bucket+")


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
        ("s3://b", "unsupported bucket scheme s3://", ""),
        ("http://localhost:5000", "unsupported bucket scheme http://", ""),
        ("sqlite:///mlflow.db", "unsupported bucket scheme sqlite://", ""),
        ("gcs://b/p", "scheme gcs://", "Did you mean gs://b/p?"),
        ("file:///data/b", "bucket scheme file://", "Did you mean bucket+file:///data/b?"),
        ("bucket-file:///b", "bucket scheme bucket-file://", "Did you mean bucket+file:///b?"),
        ("https://storage.googleapis.com/b/p/", "bucket scheme https://", "Did you mean gs://b/p?"),
        (
            "https://console.cloud.google.com/storage/browser/b;tab=objects?project=x",
            "bucket scheme https://",
            "Did you mean gs://b?",
        ),
        ("gs:/my-bucket/p", "it lacks slashes", "Did you mean gs://my-bucket/p?"),
        ("gs:my-bucket", "it lacks slashes", "Did you mean gs://my-bucket?"),
        ("bucket+file:/data/b", "it lacks slashes", "Did you mean bucket+file:///data/b?"),
        ("gs://", "the name of the bucket is missing", ""),
        ("gs:///p", "the name of the bucket is missing", ""),
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
        ("gs://my-bucket/" + "p" * 124, "its prefix is longer than 123 bytes", ""),
        ("bucket+file://", "the folder is missing", ""),
        ("bucket+file://data/b", "'data' looks like a host", "bucket+file:///data/b?"),
        ("bucket+file://~/b", "'~' looks like a host", "bucket+file:///home/me/b?"),
        ("bucket+file:///data/../b", "the address contains '..'", ""),
        ("bucket+file:///data/%2E%2E/b", "the address contains '..'", ""),
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
        known = "Use gs://BUCKET[/PREFIX], bucket+file:///FOLDER, or the path of a folder."
        assert raised.value.hint.endswith(known)
        assert "\n" not in str(raised.value)


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
