"""Whatever the order of writers' and readers' steps, a reader misses nothing.

Writers announce, write, close and die at any moment; readers begin at any moment, look at the log
and at the entities in two steps, and stop half-way; the log overflows, is damaged and is deleted.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kaggleops.bucket import ABSENT, Version, open_bucket
from kaggleops.mlruns import ChangeLog, Changes, Entity, EntityId, EntityStore, Poll, run
from kaggleops.mlruns.change_log import LOG_KEY
from kaggleops.mlruns.entity import META, dump_yaml
from tests.mlruns.entities import run_meta

RUNS = [run("1", f"{number:032x}") for number in range(6)]
CAPACITY = 8
OPEN_FOR = 100.0
STEPS = 300


class Writer:
    """A process that may write what it has announced since it last wrote it."""

    def __init__(self, log: ChangeLog) -> None:
        self.log = log
        self.about_to_write: dict[EntityId, int] = {}
        """How much has been announced since it announced each of them."""
        self.announced: set[EntityId] = set()


class Reader:
    """What a reader has seen, and what it has to have seen when its look is done."""

    def __init__(self, poll: Poll, seen: dict[EntityId, Version]) -> None:
        self.poll = poll
        self.seen = seen
        self.looking: tuple[Changes, dict[EntityId, int]] | None = None
        self.missed_the_log = False
        """It found none when it last looked."""


class World:
    """One bucket, its writers and readers, and a clock, in one random order of steps."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.bucket = open_bucket(str(folder))
        self.bucket.prepare()
        self.store = EntityStore(self.bucket)
        self.now = 0.0
        self.history: dict[EntityId, list[Version]] = {each: [ABSENT] for each in RUNS}
        self.steps: list[str] = []
        self.writers = [self.new_writer() for _ in range(3)]
        self.readers = [self.new_reader() for _ in range(2)]

    def new_writer(self) -> Writer:
        return Writer(
            ChangeLog(
                self.bucket,
                capacity=CAPACITY,
                seconds_open=lambda kind: OPEN_FOR,
                clock=lambda: (self.now, self.now),
            )
        )

    def new_reader(self) -> Reader:
        # Some go on from where another one has come to, or begin with what an index has kept.
        readers = getattr(self, "readers", [])
        if readers and self.random.random() < 0.5:
            other = self.random.choice(readers)
            known = {each: seen for each, seen in other.seen.items() if seen != ABSENT}
            poll = Poll(self.store, known, mark=other.poll.mark, clock=lambda: self.now)
            return Reader(poll, dict(known))
        last = {each: versions[-1] for each, versions in self.history.items()}
        known = {each: version for each, version in last.items() if version != ABSENT}
        known = known if self.random.random() < 0.5 else {}
        return Reader(Poll(self.store, known, clock=lambda: self.now), dict(known))

    def step(self) -> None:
        actions: list[tuple[int, Callable[[], None]]] = [
            (20, self.announce),
            (25, self.write),
            (8, self.close),
            (1, self.kill),
            (15, self.look_at_the_log),
            (20, self.look_at_the_entities),
            (3, self.replace_reader),
            (5, self.wait),
            (1, self.lose_the_log),
        ]
        weights = [weight for weight, _ in actions]
        (_, action) = self.random.choices(actions, weights)[0]
        self.steps.append(action.__name__)
        action()

    def note(self, *what: object) -> None:
        self.steps[-1] += f"({', '.join(map(str, what))})"

    # -- writers ------------------------------------------------------------------------------

    def announce(self) -> None:
        writer = self.random.choice(self.writers)
        what = set(self.random.sample(RUNS, self.random.choice([1, 1, 2])))
        self.note(self.writers.index(writer), [RUNS.index(each) for each in what])
        writer.log.announce(sorted(what))
        self.something_was_announced(len(what))
        writer.about_to_write |= dict.fromkeys(what, 0)
        writer.announced |= what

    def write(self) -> None:
        # The log promises as much: a quarter of its room between an announcement and its write.
        able = [
            (writer, each)
            for writer in self.writers
            for each, since in sorted(writer.about_to_write.items())
            if since < CAPACITY // 4
        ]
        if not able:
            return
        writer, what = self.random.choice(able)
        self.note(self.writers.index(writer), RUNS.index(what))
        del writer.about_to_write[what]
        last = self.history[what][-1]
        if last != ABSENT and self.random.random() < 0.15:
            self.store.delete(what)
            self.history[what].append(ABSENT)
        else:
            files = {
                META: dump_yaml(run_meta(run_id=what.name, run_uuid=what.name)),
                "tags/a": b"%d" % len(self.history[what]),
            }
            version = self.store.write(Entity(what, files), expected=last)
            self.history[what].append(version)

    def close(self) -> None:
        writer = self.random.choice(self.writers)
        done = writer.announced - writer.about_to_write.keys()
        self.note(self.writers.index(writer), [RUNS.index(each) for each in done])
        writer.log.close(done)
        writer.announced -= done
        self.something_was_announced(len(done))

    def kill(self) -> None:
        self.writers[self.random.randrange(3)] = self.new_writer()

    def something_was_announced(self, entries: int) -> None:
        for writer in self.writers:
            for each in writer.about_to_write:
                writer.about_to_write[each] += entries

    # -- what befalls both --------------------------------------------------------------------

    def wait(self) -> None:
        seconds = self.random.choice([20.0, 60.0, 300.0])
        self.note(seconds)
        self.now += seconds
        self.nobody_is_about_to_write()

    def lose_the_log(self) -> None:
        there = self.bucket.stat(LOG_KEY)
        # One that is begun and deleted again between two looks leaves no trace.
        if self.random.random() < 0.5 and not any(each.missed_the_log for each in self.readers):
            self.bucket.delete(LOG_KEY)
        else:
            self.bucket.write(LOG_KEY, b"{", expected=there.version if there else ABSENT)
        self.nobody_is_about_to_write()

    def nobody_is_about_to_write(self) -> None:
        for writer in self.writers:
            writer.about_to_write.clear()

    # -- readers ------------------------------------------------------------------------------

    def replace_reader(self) -> None:
        self.readers[self.random.randrange(2)] = self.new_reader()

    def look_at_the_log(self) -> None:
        reader = self.random.choice(self.readers)
        written = {each: len(versions) - 1 for each, versions in self.history.items()}
        reader.looking = (reader.poll.changed(full=self.random.random() < 0.02), written)
        reader.missed_the_log = self.bucket.stat(LOG_KEY) is None
        self.note(self.readers.index(reader), "listed" if reader.looking[0].listed else "")

    def look_at_the_entities(self) -> None:
        reader = self.random.choice(self.readers)
        if reader.looking is None:
            return
        changes, written = reader.looking
        reader.looking = None
        stop_after = self.random.choice([None, None, None, 0, 1])
        self.note(self.readers.index(reader), stop_after)
        for number, change in enumerate(changes):
            if number == stop_after:
                return
            assert (change.entity is None) == (change.version == ABSENT)
            reader.seen[change.id] = change.version
        for each, least in written.items():
            seen = reader.seen.get(each, ABSENT)
            newest = max(at for at, version in enumerate(self.history[each]) if version == seen)
            assert newest >= least, f"run {RUNS.index(each)}: saw {newest}, not {least}"


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 20))]
)
def test_a_reader_that_has_looked_has_seen_everything_written_before(
    tmp_path: Path, seed: int
) -> None:
    world = World(tmp_path, seed)
    for _ in range(STEPS):
        try:
            world.step()
        except AssertionError as error:
            raise AssertionError(f"{error}, after:\n" + "\n".join(world.steps[-60:])) from error
    assert sum(map(len, world.history.values())) > STEPS / 20  # it was not idle
