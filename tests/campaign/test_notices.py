"""Notices go through the real apprise to a loopback service."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.interface import Offer
from kaggleops.campaign.notices import VARIABLE, News, Notices, examine
from kaggleops.campaign.sweep import Job, Sweep, Trial, trial_id
from kaggleops.errors import UsageError
from kaggleops.tags import JOB_ENDED
from tests.command import kaggleops_here

from .platform import trains
from .test_watch import Watched
from .world import World

NOW = datetime(2026, 11, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECRET = "pass" + "word-of-the-service"
SWEEP = Sweep(axes=["lr=interval(0,1)"], metrics=["jaccard"], directions=["maximize"])


class Service(ThreadingHTTPServer):
    """Takes what apprise's `json://` sends, unless it is told not to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[str] = []
        self.refuses = False

    @property
    def address(self) -> str:
        return f"json://ada:{SECRET}@127.0.0.1:{self.server_port}/notices"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.server.refuses:
            self.server.messages.append(body["message"])
        self.send_response(503 if self.server.refuses else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def notices(service: Service, monkeypatch: pytest.MonkeyPatch) -> Notices:
    monkeypatch.setenv(VARIABLE, service.address)
    return Notices.from_environment()


def trial(number: int, status: str, *values: float, **tags: str) -> Trial:
    run_id = f"{number:032x}"
    job = Job(run_id, number, {}, status=status, tags=tags)
    return Trial(number, run_id, {}, [job], values or None, status)


def news(*trials: Trial, told: str = "", **also: str) -> News:
    return News("a" * 32, "learning rates", SWEEP, trials, also, told)


WAITS = "waits for Kaggle's quota until Saturday 00:00 UTC"


def test_what_happened_in_a_turn_is_one_message(notices: Notices, service: Service) -> None:
    now = [
        *(trial(number, "FINISHED", 0.7 + number / 1000) for number in (0, 1, 12)),
        trial(3, "FAILED", **{JOB_ENDED: "error: exit code 1"}),
        *(trial(number, "PRUNED") for number in (4, 5)),
        trial(6, "RUNNING"),
    ]
    notices.tell([news(*now, waiting=WAITS)], NOW)
    assert service.messages == [
        "sweep learning rates: 3 trials ended, best jaccard 0.712 (trial 12), "
        "1 failed (trial 3: error: exit code 1), 2 pruned; "
        "waits for Kaggle's quota until Saturday 00:00 UTC"
    ]


def test_a_minimum_is_the_best_where_the_least_is_wanted(
    notices: Notices, service: Service
) -> None:
    least = Sweep(axes=["a=1"], metrics=["loss"], directions=["minimize"])
    trials = [trial(0, "FINISHED", 0.5), trial(1, "FINISHED", 0.25)]
    notices.tell([News("b", "s", least, trials)], NOW)
    assert service.messages == ["sweep s: 2 trials ended, best loss 0.25 (trial 1)"]


def test_nothing_is_told_twice_also_by_the_next_watcher(notices: Notices, service: Service) -> None:
    first = trial(0, "FINISHED", 0.5)
    told = notices.tell([news(first)], NOW)["a" * 32]
    assert notices.tell([news(first, told=told)], NOW + 60 * MINUTE) == {}
    next_one = Notices([service.address])
    assert next_one.tell([news(first, told=told)], NOW + 60 * MINUTE) == {}
    next_one.tell([news(first, trial(1, "FINISHED", 0.25), told=told)], NOW + 60 * MINUTE)
    assert service.messages == [
        "sweep learning rates: 1 trial ended, best jaccard 0.5 (trial 0)",
        "sweep learning rates: 1 trial ended, best jaccard 0.5 (trial 0)",
    ]


def test_a_tag_that_could_not_be_written_repeats_nothing(
    notices: Notices, service: Service
) -> None:
    notices.tell([news(trial(0, "FINISHED", 0.5))], NOW)
    assert notices.tell([news(trial(0, "FINISHED", 0.5))], NOW + 60 * MINUTE)  # its tag, again
    assert len(service.messages) == 1


def test_forty_trials_in_ten_minutes_are_two_messages(notices: Notices, service: Service) -> None:
    told = ""
    for number in range(41):
        trials = [trial(each, "FINISHED", 0.5) for each in range(number + 1)]
        changed = notices.tell([news(*trials, told=told)], NOW + number * MINUTE / 4)
        told = changed.get("a" * 32, told)
    assert [each.split(", ")[0] for each in service.messages] == [
        "sweep learning rates: 1 trial ended",
        "sweep learning rates: 40 trials ended",
    ]


@pytest.mark.parametrize("kind", ["over", "budget", "paused"])
def test_what_is_urgent_waits_for_nothing(notices: Notices, service: Service, kind: str) -> None:
    notices.tell([news(trial(0, "FINISHED", 0.5))], NOW)
    both = [trial(0, "FINISHED", 0.5), trial(1, "FAILED")]
    notices.tell([news(*both, **{kind: "is said at once"})], NOW + MINUTE)
    assert service.messages[1:] == [
        "sweep learning rates: 1 trial failed (trial 1); is said at once"
    ]


def test_a_trial_that_is_lost_again_is_told_of_again(notices: Notices, service: Service) -> None:
    told = notices.tell([news(trial(0, "LOST"))], NOW)["a" * 32]
    told = notices.tell([news(trial(0, "RUNNING"), told=told)], NOW + 20 * MINUTE)["a" * 32]
    notices.tell([news(trial(0, "LOST"), told=told)], NOW + 40 * MINUTE)
    assert service.messages == ["sweep learning rates: 1 trial lost (trial 0)"] * 2


def test_several_sweeps_are_one_message(notices: Notices, service: Service) -> None:
    two = [News(name, name, SWEEP, [trial(0, "FINISHED", 0.5)]) for name in ("one", "two")]
    assert set(notices.tell(two, NOW)) == {"one", "two"}
    (message,) = service.messages
    assert [line.split(":")[0] for line in message.splitlines()] == ["sweep one", "sweep two"]


def test_a_service_out_of_reach_is_warned_of_once_and_loses_nothing(
    notices: Notices, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.refuses = True
    first = trial(0, "FINISHED", 0.5)
    with caplog.at_level(logging.DEBUG):
        for minute in range(0, 60, 5):
            assert notices.tell([news(first)], NOW + minute * MINUTE) == {}
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == [
        "JSON could not be reached with notices of sweeps: tried again later"
    ]
    assert SECRET not in caplog.text
    service.refuses = False
    assert notices.tell([news(first, over="all trials have ended")], NOW + 80 * MINUTE)
    assert service.messages == [
        "sweep learning rates: 1 trial ended, best jaccard 0.5 (trial 0); all trials have ended"
    ]


def test_what_one_of_two_services_missed_goes_there_later(service: Service) -> None:
    with Service() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        notices = Notices([other.address, service.address])
        other.refuses = True
        told = notices.tell([news(trial(0, "LOST"))], NOW)["a" * 32]
        other.refuses = False
        both = [trial(0, "LOST"), trial(1, "LOST")]
        notices.tell([news(*both, told=told)], NOW + 20 * MINUTE)
        other.shutdown()
        thread.join()
    lines = [f"sweep learning rates: 1 trial lost (trial {number})" for number in (0, 1)]
    assert service.messages == lines
    assert other.messages == ["\n".join(lines)]


@pytest.mark.parametrize(
    "tag",
    [
        *("[", "[]", "7", '{"at": 1}', "[" * 100_000),
        '{"at": NaN, "counts": {}, "rest": []}',
        f'{{"at": {10**400}, "counts": {{}}, "rest": []}}',
        '{"at": 9e99, "counts": {"FINISHED": "x"}, "rest": []}',
        '{"at": 9e99, "counts": {"LOST": 1, "FINISHED": -1}, "rest": []}',
    ],
)
def test_a_tag_that_somebody_broke_silences_nobody(
    notices: Notices, service: Service, tag: str
) -> None:
    notices.tell([news(trial(0, "FINISHED", 0.5), told=tag)], NOW)
    assert len(service.messages) == 1


def test_what_comes_from_a_tag_is_text_and_short(notices: Notices, service: Service) -> None:
    said = "\x1b[2J" + "x" * 10_000
    notices.tell([news(trial(0, "FAILED", **{JOB_ENDED: said}))], NOW)
    assert "\x1b" not in service.messages[0]
    assert len(service.messages[0]) < 400


def test_without_an_address_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    nobody = Notices.from_environment()
    assert not nobody
    assert nobody.tell([news(trial(0, "FINISHED", 0.5))], NOW) == {}


def test_the_file_of_addresses_becomes_this_users_alone(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "kaggleops/notify"
    file.parent.mkdir()
    file.write_text(f"# the team's\n{service.address}\n\n")
    file.chmod(0o644)
    (finding,) = examine()
    assert (finding.verdict, finding.said) == ("ok", "of sweeps go to JSON")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("between", [" ", ",", "\n", " , "])
def test_several_addresses_stand_beside_each_other(
    service: Service, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    monkeypatch.setenv(VARIABLE, between.join([service.address, f"{service.address}?:to=a,b"]))
    (finding,) = examine()
    assert finding.said == "of sweeps go to JSON, JSON"


def test_a_budget_that_is_reached_is_told_at_once_and_once(
    world: World, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, service.address)
    watched, price = Watched(world, tmp_path), 0.0
    watched.platform.offers = lambda *_: [  # type: ignore[method-assign]
        Offer("somewhere", 2 - len(watched.sent()), price, session_hours=2.0, ending_hours=0.5)
    ]
    watched.begin("alpha=1,2,3,4,5,6,7,8", budget=1.0)
    for _ in range(2):
        watched.turn()
        watched.finish(score=1)
    price = 100.0  # nothing is free any more
    for _ in range(3):
        watched.turn()
    price = 0.0
    watched.turn()
    while watched.sent():
        watched.finish(score=1)
    price = 100.0
    watched.turn()
    watched.watcher.close()
    assert ["over the budget of $1.00" in each for each in service.messages] == [False, True]


@pytest.mark.parametrize("known", [True, False])
def test_a_sweep_ends_whoever_is_told(
    world: World, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setenv(VARIABLE, service.address if known else f"slakc://{SECRET}")
    watched = Watched(world, tmp_path)
    sweep_id = watched.begin("alpha=1,2", metrics=["score"], directions=["maximize"])
    problems = " ".join(watched.turn().problems)
    for number in range(2):
        trains(world.uri, trial_id(sweep_id, number), watched.platform, score=number + 1)
    problems += " ".join(watched.turn().problems)
    watched.watcher.close()
    assert mlflow.MlflowClient(world.uri).get_run(sweep_id).info.status == "FINISHED"
    assert ("address 1 is not one that apprise knows" in problems) != known
    assert SECRET not in problems
    if known:
        assert service.messages[-1].endswith("; it is over: finished")
        assert "best score 2 (trial 1)" in service.messages[-1]


def test_an_address_that_is_none_is_refused_without_being_shown(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"{service.address} slakc://{SECRET}/x")
    with pytest.raises(UsageError, match="address 2 is not one that apprise knows") as refused:
        Notices.from_environment()
    assert SECRET not in str(refused.value)


def test_doctor_says_whether_notices_are_set_up(service: Service, tmp_path: Path) -> None:
    done = kaggleops_here("doctor", "--json", cwd=tmp_path, **{VARIABLE: service.address})
    findings = {each["about"]: each for each in done.json["findings"]}
    assert findings["notices"]["verdict"] == "ok"
    assert SECRET not in done.output + done.errors
    assert service.messages == []
