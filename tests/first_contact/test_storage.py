"""What is assumed of Cloud Storage and S3: it holds on the fakes, and a difference is told."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kaggleops.first_contact.assumption import Line, assumed_of, tried
from kaggleops.first_contact.storage import S3, CloudStorage, Storage
from tests.fakes.object_server import ObjectServer
from tests.fakes.wire import Response

from . import differences
from .differences import Change

PLACE = "doctor/try-1"


@pytest.fixture(params=["gcs", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    made: ObjectServer = request.getfixturevalue(f"{kind}_server")
    made.create_bucket("our-bucket")
    yield made
    made.heal()


DIFFERENCES: dict[str, dict[str, Change]] = {"gcs": differences.GCS, "s3": differences.S3}
KINDS: dict[str, type[Storage]] = {"gcs": CloudStorage, "s3": S3}


def lines_of(kind: str, server: ObjectServer, turned: Callable[[str, str], bool]) -> list[Line]:
    """Check all, each on a service that differs in those that are turned (by both names)."""
    at = KINDS[kind](server.address("our-bucket", PLACE), 1.0)
    http = server._http
    assert http

    def on(name: str) -> Storage:
        def change(request: Any, response: Response) -> Response:
            about = request.key or request.query.get("prefix", "")
            for other, each in DIFFERENCES[kind].items():
                if f"/{other}/" in f"{about}/" and turned(name, other):
                    response = each(request, response)
            return response

        http.change = change
        return at.within(name)

    return list(tried(kind, on))


def test_every_assumption_can_differ(kind: str) -> None:
    assert set(assumed_of(kind)) == set(DIFFERENCES[kind])


def test_what_is_assumed_holds_on_the_fake_whatever_else_differs(
    kind: str, server: ObjectServer
) -> None:
    lines = lines_of(kind, server, lambda name, other: name != other)
    assert {line.id: line.seen for line in lines if line.verdict != "ok"} == {}


def test_one_that_differs_is_told_with_what_was_seen(kind: str, server: ObjectServer) -> None:
    lines = lines_of(kind, server, lambda name, other: name == other)
    assert {line.id: line.seen for line in lines if line.verdict != "differs"} == {}
    assert all(line.seen and line.assumed and line.breaks for line in lines)


def test_the_testbench_differs_where_its_words_do(gcs_server: Any) -> None:
    gcs_server.testbench = True
    gcs_server.create_bucket("our-bucket")
    lines = lines_of("gcs", gcs_server, lambda name, other: False)
    differing = [line.id for line in lines if line.verdict != "ok"]
    assert differing == ["absent-object", "damaged-upload-refused"]


@pytest.mark.parametrize("fault", [503, 429, "reset", "page", "garbled"])
def test_a_fault_that_stays_is_no_difference(fault: int | str, gcs_server: Any) -> None:
    gcs_server.create_bucket("our-bucket")
    gcs_server.fail(fault, times=None)
    at = CloudStorage(gcs_server.address("our-bucket", PLACE), 0.01)
    verdicts = {line.id: line.verdict for line in tried("gcs", at.within)}
    assert "differs" not in verdicts.values(), verdicts


@pytest.mark.parametrize("fault", [503, "reset"])
def test_a_fault_that_passes_is_none(fault: int | str, gcs_server: Any) -> None:
    gcs_server.create_bucket("our-bucket")
    gcs_server.fail(fault, times=30, probability=0.3)
    at = CloudStorage(gcs_server.address("our-bucket", PLACE), 5)
    lines = tried("gcs", at.within)
    # Where each refusal counts, one that only looks like the service's is no answer.
    left = {line.id for line in lines if line.verdict != "ok"} - {"rate-of-one-object"}
    assert left == set()
