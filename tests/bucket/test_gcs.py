"""What belongs to Cloud Storage alone: what each verb costs, and Google's errors in our words."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kaggleops.bucket import (
    ABSENT,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    ConflictError,
    ObjectNotFoundError,
    open_bucket,
)
from kaggleops.bucket.gcs_client import connect, is_passing
from kaggleops.bucket.patience import Patience
from tests.bucket.uses import USES, large
from tests.fakes.gcs_server import GcsServer
from tests.fakes.wire import HttpServer, Response
from tests.server.serving import eventually


@pytest.fixture
def server(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    # It is for the bucket to see to it that nobody asks behind its back.
    monkeypatch.delenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA")
    gcs_server.create_bucket("ours")
    gcs_server.put("ours", "k", b"content")
    return gcs_server


@pytest.fixture
def bucket(server: GcsServer) -> Bucket:
    return open_bucket("gs://ours", patience=5)


def test_a_listing_tells_what_it_leaves_out(server: GcsServer, bucket: Bucket) -> None:
    server.put("ours", "a//b", b"1")
    server.put("ours", "a/", b"")  # a console's folder
    told: dict[str, str] = {}
    assert [entry.key for entry in bucket.list(left_out=told.__setitem__)] == ["k"]
    assert told == {"gs://ours/a//b": "no object can have that name"}


def test_what_each_verb_costs(server: GcsServer, bucket: Bucket) -> None:
    def cost(use: Callable[[], object]) -> tuple[int, int, int]:
        server.reset_counts()
        use()
        return server.count("A"), server.count("B"), server.count("free")

    stored = bucket.read("k")
    assert stored is not None
    assert cost(lambda: bucket.read("k")) == (0, 1, 0)
    assert cost(lambda: bucket.read("k", unless=stored.version)) == (0, 1, 0)
    assert cost(lambda: bucket.read("absent", unless=ABSENT)) == (0, 1, 0)
    assert cost(lambda: bucket.fetch("k", Path("file"))) == (0, 1, 0)
    assert cost(lambda: bucket.stat("k")) == (0, 1, 0)
    assert cost(lambda: bucket.stat("absent")) == (0, 1, 0)
    assert cost(lambda: bucket.write("a", b"x", expected=ABSENT)) == (1, 0, 0)
    assert cost(lambda: bucket.write("b", bytes(large(bucket.uri)), expected=ABSENT)) == (1, 0, 1)
    assert cost(lambda: bucket.delete("a")) == (0, 0, 1)
    with pytest.raises(ConflictError):
        assert cost(lambda: bucket.write("k", b"x", expected=ABSENT))
    assert (server.count("A"), server.count("B")) == (1, 1)


def test_an_unchanged_object_is_not_sent(server: GcsServer, bucket: Bucket) -> None:
    stored = bucket.read("k")
    assert stored is not None
    server.reset_counts()
    assert bucket.read("k", unless=stored.version) is None
    assert [logged.status for logged in server.requests] == [304]


def test_a_listing_costs_a_request_a_thousand(server: GcsServer, bucket: Bucket) -> None:
    for number in range(2499):
        server.put("ours", f"many/{number:05}", b"")
    assert len(list(bucket.list())) == 2500
    assert [logged.op for logged in server.requests] == ["objects.list"] * 3


def test_globs_are_matched_by_the_service(server: GcsServer) -> None:
    for name in ("p", "p[1]"):
        for number in range(1500):
            server.put("ours", f"{name}/runs/{number:04}/data", b"")
        server.put("ours", f"{name}/runs/0001/meta", b"")
    for prefix, requests in (("p", 1), ("p[1]", 2)):
        server.reset_counts()
        found = open_bucket(f"gs://ours/{prefix}").list("runs/", glob="runs/*/meta")
        assert [entry.key for entry in found] == ["runs/0001/meta"]
        # Where the prefix itself would be read as a glob, everything has to be looked through.
        assert len(server.requests) == requests


def test_listings_leave_out_what_is_no_key(server: GcsServer) -> None:
    for name in ("p/", "p/folder/", "p/a//b", "p/ok", "p/.kaggleops/locks/1", "pp/other"):
        server.put("ours", name, b"")
    assert [entry.key for entry in open_bucket("gs://ours/p").list()] == ["ok"]


@pytest.mark.parametrize("use", USES)
def test_an_absent_bucket(server: GcsServer, use: str) -> None:
    absent = open_bucket("gs://no-such-bucket/p", patience=5)
    with pytest.raises(BucketNotFoundError, match="the bucket no-such-bucket does not exist") as e:
        USES[use](absent)
    assert "gcloud storage buckets create gs://no-such-bucket" in e.value.hint


def test_a_404_in_unknown_words(server: GcsServer, bucket: Bucket) -> None:
    server.fail(404, times=None, op="objects.get_media", message="Not Found")
    with pytest.raises(ObjectNotFoundError):
        bucket.read("k")
    server.fail(404, times=None, message="Not Found")
    with pytest.raises(BucketNotFoundError):
        bucket.read("k")


@pytest.mark.parametrize("use", USES)
def test_no_permission(server: GcsServer, bucket: Bucket, use: str) -> None:
    server.deny("ours", read=True, write=True)
    with pytest.raises(AccessDeniedError, match=r"Permission 'storage\.objects\.\w+' denied") as e:
        USES[use](bucket)
    assert "roles/storage.objectUser" in e.value.hint
    assert "gs://ours" in e.value.hint
    server.allow("ours")
    USES[use](bucket)


def test_may_read_but_not_write(server: GcsServer, bucket: Bucket) -> None:
    server.deny("ours", write=True)
    assert bucket.read("k") is not None
    with pytest.raises(AccessDeniedError):
        bucket.write("new", b"", expected=ABSENT)


@pytest.mark.parametrize("use", USES)
def test_credentials_that_are_refused(server: GcsServer, bucket: Bucket, use: str) -> None:
    server.deny("ours", read=True, write=True, status=401)
    with pytest.raises(AccessDeniedError, match="the Google credentials were refused") as e:
        USES[use](bucket)
    assert "gcloud auth application-default login" in e.value.hint


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for use in USES.values():
        with pytest.raises(AccessDeniedError, match="no Google credentials were found") as e:
            use(open_bucket("gs://ours"))
        assert "gcloud auth application-default login" in e.value.hint


def sign_in_at(token_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let there be a service account's key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "runner@project.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": token_uri,
    }
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


def test_a_page_in_a_tokens_place_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = Response(200, [("Content-Type", "text/html")], b"<html>Log in</html>")
    elsewhere = Response(302, [("Location", "/login")])
    token = Response(200, [], json.dumps({"access_token": "t", "expires_in": 3600}).encode())
    told = iter([page, elsewhere, token])
    server = HttpServer(lambda request: (next(told), "whole"))
    try:
        sign_in_at(f"{server.url}/token", monkeypatch, tmp_path)
        client = connect()
        refresh = partial(client._credentials.refresh, client._http._auth_request)
        Patience(5, is_passing)(refresh)()
        assert client._credentials.token == "t"
        assert next(told, None) is None
    finally:
        server.stop()


def test_credentials_that_have_expired(
    server: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The fake refuses it with a 400, as Google does a withdrawn key.
    sign_in_at(f"{server.url}/token", monkeypatch, tmp_path)
    with pytest.raises(AccessDeniedError, match="the Google credentials were refused") as e:
        open_bucket("gs://ours", patience=5).read("k")
    assert "They may have expired" in e.value.hint


def test_any_other_refusal(server: GcsServer, bucket: Bucket) -> None:
    server.fail(400, message="The bucket's billing account is closed.")
    with pytest.raises(
        BucketError, match=r"Cloud Storage answers 400: The bucket's billing account is closed\."
    ) as e:
        bucket.read("k")
    assert type(e.value) is BucketError


def test_sixteen_threads_keep_their_connections(server: GcsServer, bucket: Bucket) -> None:
    with ThreadPoolExecutor(16) as threads:
        for _ in range(3):
            late = server.fail("late", times=None)  # so that all are under way at once
            asked = [threads.submit(bucket.stat, "k") for _ in range(16)]
            eventually(lambda late=late: late.hits == 16)
            late.release()
            for each in asked:
                each.result()
    assert server.connections == 16


def test_a_forked_child_leaves_its_parents_connections_alone(
    server: GcsServer, bucket: Bucket
) -> None:
    bucket.stat("k")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bucket.stat("k")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bucket.stat("k")
    assert server.connections == 2


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("plots/loss.png", "image/png"),
        ("report.html", "text/html"),
        ("mlruns/0.tar.gz", "application/octet-stream"),
        ("model", "application/octet-stream"),
    ],
)
def test_a_browser_is_told_what_it_gets(
    key: str, kind: str, server: GcsServer, bucket: Bucket
) -> None:
    bucket.write(key, b"content", expected=ABSENT)
    assert server.objects("ours")[key].fields["contentType"] == kind
