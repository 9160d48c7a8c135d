"""The fake Cloud Storage, request by request: what it refuses, and how it misbehaves."""

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.fakes.gcs_server import GcsServer

KIB = 1024


@pytest.fixture
def server(gcs_server: GcsServer) -> GcsServer:
    gcs_server.create_bucket("b")
    return gcs_server


def ask(
    server: GcsServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of what the server answers to a bare request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, body, named, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_what_a_download_says_of_the_object(server: GcsServer) -> None:
    made = server.put("b", "k", b"hello", contentType="text/plain")
    for path in ("/download/storage/v1/b/b/o/k?alt=media", "/storage/v1/b/b/o/k?alt=media"):
        status, headers, body = ask(server, "GET", path)
        assert (status, body) == (200, b"hello")
        assert headers["Content-Type"] == "text/plain"
        assert headers["X-Goog-Generation"] == str(made.generation)
        assert headers["X-Goog-Metageneration"] == "1"
        assert headers["X-Goog-Stored-Content-Length"] == "5"
        assert headers["X-Goog-Hash"] == "crc32c=mnG7TA=="
        assert headers["ETag"]


def test_ranges(server: GcsServer) -> None:
    server.put("b", "k", bytes(range(100)))
    path = "/download/storage/v1/b/b/o/k?alt=media"
    for wanted, served in (
        ("0-9", (0, 9)),
        ("90-", (90, 99)),
        ("90-200", (90, 99)),
        ("-7", (93, 99)),
    ):
        status, headers, body = ask(server, "GET", path, Range=f"bytes={wanted}")
        first, last = served
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/100")
        assert body == bytes(range(first, last + 1))
    status, headers, _ = ask(server, "GET", path, Range="bytes=100-")
    assert (status, headers["Content-Range"]) == (416, "bytes */100")
    assert ask(server, "GET", path, Range="lines=1-2")[0] == 400


def test_gzip_is_unpacked_for_those_who_do_not_take_it(server: GcsServer) -> None:
    server.put("b", "k", gzip.compress(b"hello" * 1000), contentEncoding="gzip")
    status, headers, body = ask(server, "GET", "/storage/v1/b/b/o/k?alt=media")
    assert (status, body) == (200, b"hello" * 1000)
    assert "Content-Encoding" not in headers


def test_a_resumable_upload_step_by_step(server: GcsServer) -> None:
    def put(first: int, last: int, total: str, body: bytes, **more: str) -> tuple[int, Any, bytes]:
        placed = f"bytes {first}-{last}/{total}"
        return ask(server, "PUT", session, body, Content_Range=placed, **more)

    path = "/upload/storage/v1/b/b/o?uploadType=resumable&ifGenerationMatch=0"
    status, headers, _ = ask(server, "POST", path, b'{"name": "k", "contentType": "x/y"}')
    assert status == 200
    session = headers["Location"].removeprefix(server.url)
    unit = 256 * KIB

    asked = ask(server, "PUT", session, b"", Content_Range="bytes */*")
    assert (asked[0], "Range" in asked[1]) == (308, False)
    assert put(0, unit - 1, "*", b"a" * unit)[0] == 308
    asked = ask(server, "PUT", session, b"", Content_Range="bytes */*")
    assert (asked[0], asked[1]["Range"]) == (308, f"bytes=0-{unit - 1}")
    # A chunk again, one that overlaps, one that leaves a gap, one that is not of full units.
    assert put(0, unit - 1, "*", b"z" * unit)[0] == 308
    assert (
        put(0, 2 * unit - 1, "*", b"a" * unit + b"b" * unit)[1]["Range"]
        == f"bytes=0-{2 * unit - 1}"
    )
    assert put(3 * unit, 4 * unit - 1, "*", b"c" * unit)[0] == 400
    assert "k" not in server.objects("b")
    end = 2 * unit
    hashed = hashlib.md5(b"a" * unit + b"b" * unit + b"end").digest()
    md5 = "md5=" + base64.b64encode(hashed).decode()
    status, _, body = put(end, end + 2, f"{end + 3}", b"end", X_Goog_Hash=md5)
    assert status == 200
    made = server.objects("b")["k"]
    assert json.loads(body)["generation"] == str(made.generation)
    assert made.data == b"a" * unit + b"b" * unit + b"end"
    # Done is done, however often it is asked again.
    assert ask(server, "PUT", session, b"", Content_Range="bytes */*")[0] == 200
    assert put(end, end + 2, f"{end + 3}", b"END")[0] == 200
    assert server.objects("b")["k"] == made


def test_a_chunk_that_is_taken_in_part(server: GcsServer) -> None:
    path = "/upload/storage/v1/b/b/o?uploadType=resumable&name=k"
    session = ask(server, "POST", path)[1]["Location"].removeprefix(server.url)
    server.fail("partial")
    unit = 256 * KIB
    status, headers, _ = ask(server, "PUT", session, b"a" * 3 * unit)
    assert (status, headers["Range"]) == (308, f"bytes=0-{unit - 1}")
    placed = f"bytes {unit}-{3 * unit - 1}/{3 * unit}"
    assert ask(server, "PUT", session, b"b" * 2 * unit, Content_Range=placed)[0] == 200
    assert server.objects("b")["k"].data == b"a" * unit + b"b" * 2 * unit


def test_a_resumable_upload_is_checked_at_its_end(server: GcsServer) -> None:
    path = "/upload/storage/v1/b/b/o?uploadType=resumable&ifGenerationMatch=0"
    start = lambda: ask(server, "POST", path, b'{"name": "k"}')  # noqa: E731
    session = start()[1]["Location"].removeprefix(server.url)
    wrong = "md5=" + base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert ask(server, "PUT", session, b"mine", X_Goog_Hash=wrong)[0] == 400
    session = start()[1]["Location"].removeprefix(server.url)
    server.put("b", "k", b"theirs")
    assert ask(server, "PUT", session, b"mine")[0] == 412
    assert start()[0] == 412
    server.remove("b", "k")
    session = start()[1]["Location"].removeprefix(server.url)
    assert ask(server, "DELETE", session)[0] == 499
    assert ask(server, "PUT", session, b"mine")[0] == 404
    session = start()[1]["Location"].removeprefix(server.url)
    server.expire_uploads()
    assert ask(server, "PUT", session, b"mine")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/storage/v2/b/b/o/k", None),
        ("GET", "/", None),
        ("PUT", "/storage/v1/b/b", b"{}"),
        ("POST", "/batch/storage/v1", b""),
        ("GET", "/storage/v1/b/b/o/k?ifGenerationMatched=1", None),
        ("GET", "/storage/v1/b/b/o/k?ifGenerationMatch=one", None),
        ("GET", "/storage/v1/b/b/o/k?ifGenerationMatch=1&ifGenerationMatch=2", None),
        ("GET", "/storage/v1/b/b/o/k?generation=-1", None),
        ("GET", "/storage/v1/b/b/o/k?fields=nonsense", None),
        ("GET", "/storage/v1/b/b/o/k?fields=name(", None),
        ("GET", "/storage/v1/b/b/o?maxResults=0", None),
        ("GET", "/storage/v1/b/b/o?pageToken=%21", None),
        ("GET", "/storage/v1/b/b/o?matchGlob=a%5B", None),
        ("GET", "/storage/v1/b/b/o?matchGlob=a&delimiter=x", None),
        ("GET", "/storage/v1/b/b/o?name=k", None),
        ("GET", "/storage/v1/b/b/o/%FF", None),
        ("PATCH", "/storage/v1/b/b/o/k", b"not json"),
        ("PATCH", "/storage/v1/b/b/o/k", b"[]"),
        ("PATCH", "/storage/v1/b/b/o/k", b'{"size": "1"}'),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=media", b"x"),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=other&name=k2", b"x"),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=..", b"x"),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=a%0Ab", b"x"),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=multipart", b"x"),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=resumable&name=k2", b'{"name": "k3"}'),
        ("POST", "/upload/storage/v1/b/b/o?uploadType=resumable", b'{"name": "k", "nam": 1}'),
        ("POST", "/storage/v1/b/b/o/k/compose", b'{"sourceObjects": []}'),
        ("POST", "/storage/v1/b", b'{"name": "no project"}'),
    ],
)
def test_what_is_refused(server: GcsServer, method: str, path: str, body: bytes | None) -> None:
    made = server.put("b", "k", b"x")
    status, _, answer = ask(server, method, path, body)
    assert status == 400
    assert b"the fake broke" not in answer
    assert server.objects("b") == {"k": made}
    assert server.requests[-1].status == 400
    assert server.requests[-1].message


def test_wrong_hashes_are_refused(server: GcsServer) -> None:
    path = "/upload/storage/v1/b/b/o?uploadType=media&name=k"
    for wrong in ("md5=abc", "crc32c=AAAAAA==", "sha1=abc"):
        assert ask(server, "POST", path, b"x", X_Goog_Hash=wrong)[0] == 400
    body = (
        b'--mark\r\n\r\n{"name": "k", "md5Hash": "abc"}\r\n--mark\r\n'
        b"content-type: text/plain\r\n\r\nx\r\n--mark--"
    )
    path = "/upload/storage/v1/b/b/o?uploadType=multipart"
    kind = 'multipart/related; boundary="mark"'
    assert ask(server, "POST", path, body, Content_Type=kind)[0] == 400
    assert not server.objects("b")


def test_errors_look_like_the_services(server: GcsServer) -> None:
    status, headers, body = ask(server, "GET", "/storage/v1/b/b/o/absent")
    assert (status, headers["Content-Type"]) == (404, "application/json; charset=UTF-8")
    assert json.loads(body)["error"] == {
        "code": 404,
        "message": "No such object: b/absent",
        "errors": [
            {"message": "No such object: b/absent", "domain": "global", "reason": "notFound"}
        ],
    }
    status, _, body = ask(server, "GET", "/download/storage/v1/b/b/o/absent?alt=media")
    assert (status, body) == (404, b"No such object: b/absent")
    status, _, body = ask(server, "GET", "/storage/v1/b/absent/o/k")
    assert json.loads(body)["error"]["message"] == "The specified bucket does not exist."


def test_faults_strike_whom_they_are_meant_for(server: GcsServer) -> None:
    server.put("b", "k", b"x")
    server.put("b", "other", b"x")
    get = lambda key: ask(server, "GET", f"/storage/v1/b/b/o/{key}")[0]  # noqa: E731
    fault = server.fail(503, times=2, op="objects.get", key="k", retry_after=7)
    assert get("other") == 200
    status, headers, _ = ask(server, "GET", "/storage/v1/b/b/o/k")
    assert (status, headers["Retry-After"]) == (503, "7")
    assert [get("k"), get("k")] == [503, 200]
    assert fault.hits == 2
    server.fail(429, times=None, where=lambda request: request.query.get("generation") == "1")
    assert get("k") == 200
    assert get("k?generation=1") == get("k?generation=1") == 429
    server.heal()
    assert get("k?generation=1") == 404
    server.fail(500, times=None, probability=0.5, seed=1)
    first = [get("k") for _ in range(20)]
    server.heal()
    server.fail(500, times=None, probability=0.5, seed=1)
    assert [get("k") for _ in range(20)] == first
    assert set(first) == {200, 500}


def test_broken_connections(server: GcsServer) -> None:
    path = "/upload/storage/v1/b/b/o?uploadType=media&name="
    server.fail("reset")
    with pytest.raises(ConnectionResetError):
        ask(server, "POST", f"{path}never", b"x")
    server.fail("lost-response")
    with pytest.raises(ConnectionResetError):
        ask(server, "POST", f"{path}made", b"x")
    assert set(server.objects("b")) == {"made"}
    assert [logged.status for logged in server.requests] == [0, 0]
    server.put("b", "k", b"content")
    server.fail("truncate")
    with pytest.raises(OSError, match="IncompleteRead"):
        _read_all(server, "/storage/v1/b/b/o/k?alt=media")
    server.fail("corrupt")
    assert _read_all(server, "/storage/v1/b/b/o/k?alt=media") != b"content"
    assert _read_all(server, "/storage/v1/b/b/o/k?alt=media") == b"content"


def _read_all(server: GcsServer, path: str) -> bytes:
    try:
        return ask(server, "GET", path)[2]
    except http.client.IncompleteRead as error:
        raise OSError(repr(error)) from error


def test_a_request_that_hangs_until_it_is_released(server: GcsServer) -> None:
    server.put("b", "k", b"x")
    hanging = server.fail("hang", times=None)
    got: list[int] = []
    path = "/storage/v1/b/b/o/k"
    thread = threading.Thread(target=lambda: got.append(ask(server, "GET", path)[0]))
    thread.start()
    assert hanging.struck.wait(10)
    assert not got
    hanging.release()
    thread.join()
    assert got == [200]
    assert ask(server, "GET", path)[0] == 200


def test_it_stops_while_requests_hang_and_connections_are_open() -> None:
    before = set(threading.enumerate())
    with GcsServer() as server:
        server.create_bucket("b")
        idle = http.client.HTTPConnection(server.url.removeprefix("http://"))
        idle.request("GET", "/storage/v1/b/b/o")
        assert idle.getresponse().read()
        hanging = server.fail("hang", times=None)
        url = server.url

        def ask_and_be_let_down() -> None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/storage/v1/b/b/o").read()

        thread = threading.Thread(target=ask_and_be_let_down)
        thread.start()
        assert hanging.struck.wait(10)
    thread.join()
    idle.close()
    assert set(threading.enumerate()) <= before  # of those one may end meanwhile


def test_old_generations_of_a_versioned_bucket(server: GcsServer) -> None:
    server.create_bucket("kept", versioned=True)
    first, second = (server.put("kept", "k", data).generation for data in (b"one", b"two"))
    path = "/storage/v1/b/kept/o/k"

    def read(generation: int) -> tuple[int, bytes]:
        status, _, body = ask(server, "GET", f"{path}?alt=media&generation={generation}")
        return status, body

    assert read(first) == (200, b"one")
    assert ask(server, "DELETE", path)[0] == 204
    assert ask(server, "GET", path)[0] == 404
    assert read(second) == (200, b"two")
    listed = json.loads(ask(server, "GET", "/storage/v1/b/kept/o?versions=true")[2])["items"]
    assert [int(item["generation"]) for item in listed] == [first, second]
    assert all(item["timeDeleted"] for item in listed)
    assert "items" not in json.loads(ask(server, "GET", "/storage/v1/b/kept/o")[2])
    # One that is named is gone for good: it can only be restored.
    assert ask(server, "DELETE", f"{path}?generation={first}")[0] == 204
    assert read(first)[0] == 404
    assert ask(server, "GET", f"{path}?generation={first}&softDeleted=true")[0] == 200
    assert ask(server, "POST", f"{path}/restore?generation={first}", b"")[0] == 200
    assert server.objects("kept")["k"].data == b"one"
    unversioned = server.put("b", "k", b"one").generation
    server.put("b", "k", b"two")
    gone = f"/storage/v1/b/b/o/k?alt=media&generation={unversioned}"
    assert ask(server, "GET", gone)[0] == 404


def test_the_testbenchs_dialect(server: GcsServer) -> None:
    server.testbench = True
    server.put("b", "empty", b"")
    empty = json.loads(ask(server, "GET", "/storage/v1/b/b/o/empty")[2])
    assert "size" not in empty
    status, _, body = ask(server, "GET", "/storage/v1/b/b/o/absent")
    assert (status, b"Live version of object" in body) == (404, True)
    upload = "/upload/storage/v1/b/b/o?name={}&uploadType={}&ifGenerationMatch={}"
    assert ask(server, "POST", upload.format("new", "media", 5), b"x")[0] == 404
    assert ask(server, "POST", upload.format("empty", "media", 0), b"x")[0] == 412
    damaged = {"X-Goog-Hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}
    assert ask(server, "POST", upload.format("new", "media", 0), b"x", **damaged)[0] == 412
    # A precondition is looked at when everything has come.
    status, headers, _ = ask(server, "POST", upload.format("empty", "resumable", 0), b"")
    assert status == 200
    session = headers["Location"].removeprefix(server.url)
    assert ask(server, "PUT", session, b"x", Content_Range="bytes 0-0/1")[0] == 412


def test_what_a_proxy_answers_in_its_place(server: GcsServer) -> None:
    server.put("b", "k", b"content")
    server.fail("page", status=203)
    status, headers, body = ask(server, "GET", "/storage/v1/b/b/o/k?alt=media")
    assert (status, headers["Content-Type"], body[:9]) == (203, "text/html", b"<!DOCTYPE")
    server.fail("redirect")
    status, _, body = ask(server, "GET", "/storage/v1/b/b/o/k?alt=media")  # is followed
    assert (status, body[:9]) == (200, b"<!DOCTYPE")
    server.fail("garbled")
    status, _, body = ask(server, "GET", "/storage/v1/b/b/o/k")
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(body)
    stalled = server.fail("stall")
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: (stalled.struck.wait(), stalled.release()))
        thread.start()
        stack.callback(thread.join)
        assert ask(server, "GET", "/storage/v1/b/b/o/k?alt=media")[2] == b"content"
