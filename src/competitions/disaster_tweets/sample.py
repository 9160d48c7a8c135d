"""A small data set in the competition's format, so that a first run needs no account.

Every tweet is put together here from phrases written for this purpose; none is anybody's. Both
kinds use the same keywords: what tells them apart is whether something happened to somebody. Some
rows have no keyword, as in the competition. The rows are the same on every machine.
"""

import csv
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

TRAIN_ROWS = 600
TEST_ROWS = 100


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.split("|")]


# Keyword, then what is said of a real one, then what is said of none. {p} is a place.
TOPICS = [
    (
        "fire",
        "fire crews are at a warehouse in {p} | a fire in {p} has left ten families homeless",
        "this new song is fire | my neighbour is on fire at darts tonight",
    ),
    (
        "flood",
        "the flood has cut off the road to {p} | people in {p} wait on roofs as the flood rises",
        "a flood of mail this morning | i got a flood of birthday wishes",
    ),
    (
        "earthquake",
        "a strong earthquake shook {p} an hour ago | earthquake damage reported at {p} station",
        "my phone on this desk is an earthquake | the bass tonight was an earthquake",
    ),
    (
        "crash",
        "two hurt in a crash on the bridge near {p} | a crash has closed the motorway at {p}",
        "i will crash on the sofa now | this app loves to crash when i save",
    ),
    (
        "storm%20damage",
        "storm damage in {p}: no power for the second day | roofs gone, storm damage all over {p}",
        "my hair shows storm damage again | storm damage is what my desk looks like",
    ),
    (
        "explosion",
        "an explosion at the {p} plant, workers missing | windows broken by the explosion in {p}",
        "an explosion of colour at the show | this cake is an explosion of taste",
    ),
    (
        "evacuate",
        "police evacuate the market in {p} | they evacuate the hospital of {p} because of smoke",
        "evacuate the kitchen, dad is cooking | time to evacuate this boring party",
    ),
    (
        "collapse",
        "a wall came down in {p}, three under the collapse | bridge collapse near {p} confirmed",
        "about to collapse after leg day | my exam plan is close to collapse",
    ),
]
PLACES = _phrases(
    "Northport | Elm Valley | Kesten | the old town | Harrow Bay | Lindau | Rivermouth"
)
OPENERS = _phrases("just in: | wow, | update: | so | hearing that | ok | @friend | morning all,")
ENDS = _phrases("| ! | ... | #news | http://t.co/x1y2z3 | right now | today | please share | lol")


def write_sample(folder: Path) -> None:
    """Write train.csv, test.csv and sample_submission.csv into `folder`."""
    rows = _rows()
    train = [next(rows) for _ in range(TRAIN_ROWS)]
    test = [next(rows) for _ in range(TEST_ROWS)]
    _write(folder / "train.csv", ["id", "keyword", "location", "text", "target"], train)
    _write(folder / "test.csv", ["id", "keyword", "location", "text"], [row[:4] for row in test])
    _write(folder / "sample_submission.csv", ["id", "target"], [(row[0], "0") for row in test])


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Endless rows (id, keyword, location, text, target), no text twice."""
    draw = random.Random(2019)  # noqa: S311 - no secret
    seen: set[str] = set()
    while True:
        # The competition's own proportion: 43 % tell of a disaster.
        target = draw.choices(["1", "0"], [43, 57])[0]
        keyword, real, other = draw.choice(TOPICS)
        phrase = draw.choice(_phrases(real if target == "1" else other))
        text = f"{draw.choice(OPENERS)} {phrase.format(p=draw.choice(PLACES))} {draw.choice(ENDS)}"
        if text not in seen:
            seen.add(text)
            named = draw.random() < 0.95
            place = draw.choice(["", draw.choice(PLACES)])
            yield str(len(seen)), keyword if named else "", place, text.strip(), target


def _write(path: Path, header: list[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
