"""A small data set in the competition's format, so that a first run needs no account.

Every tweet is put together here from phrases written for this purpose; none is anybody's. As in the
competition, the selected text is the phrase that carries the sentiment and neutral tweets select
everything; many tweets hold a phrase of the other sentiment too, so that a model has to read which
one is asked for. The rows are the same on every machine.
"""

import random

import pandas as pd

# Small enough to train on in seconds, large enough that 160 rows are left to validate on.
TRAIN_ROWS = 800
TEST_ROWS = 120


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.split("|")]


OPENERS = _phrases("""
ok so | morning all, | right, | just saying, | hey there! | well, | back again. | so |
hello from the train, | hmm, | quick update: | Monday again. | friday at last, | it is late, |
lunch break. | day three: | about today:
""")

SCENES = _phrases("""
my sister is painting the kitchen | the bus to the market leaves at nine |
we moved the desk to the window | the new season starts tonight | i am packing for the trip |
our neighbour borrowed the ladder | they changed the menu at the corner cafe |
the exam was this morning | i walked home along the river | the cat sleeps on my keyboard |
we are on page forty of the manual | dad is fixing the old radio | the library opens at ten |
i have band practice after work | my phone is at the repair shop |
the train stops in every village | we planted tomatoes on the balcony |
the game went to extra time | grandma called from the coast | i am learning to juggle |
the office got a second printer | we watched the first two episodes |
the parcel went to the wrong street | my brother starts his new job | the pool is open until eight
| i tried the blue bicycle | the meeting is on the third floor | we had soup for dinner |
the concert is in the old factory | i repainted the garden chairs
""")

POSITIVE = _phrases("""
so happy about it | love it | what a lovely surprise | best day in weeks | cannot stop smiling |
feeling great | it was wonderful | totally worth it | i am so proud of her | such a sweet moment |
that made my day | really enjoyed it | the cake was delicious | thank you all so much |
simply beautiful | good times | we laughed so hard | i am excited | it tastes amazing |
what a treat | huge fan now | everyone was so kind | so glad you came | it works perfectly |
hooray | big hugs to you | nicest people ever | finally some sunshine, yay | pretty cool |
i feel lucky
""")

NEGATIVE = _phrases("""
so sad about it | hate it | what a horrible mess | worst day in weeks | cannot stop crying |
feeling awful | it was terrible | total waste of time | i am so worried about her |
such a gloomy moment | that ruined my day | really bored by it | the cake was burnt |
sorry to all of you | simply ugly | bad luck | we argued all night | i am exhausted |
it tastes disgusting | what a pain | so disappointed now | everyone was so rude | i miss you badly
| it broke again | ouch | my head hurts | loneliest night ever | rain again, ugh | pretty annoying
| i feel ill
""")

LINKS = ["but", "and yet", "although", "...", "-", "then again,"]
ENDS = ["", "", ".", "!", "!!", "...", " lol", " :)", " haha", " #today", " anyway"]


def sample() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to learn from and rows to predict, no text twice."""
    draw = random.Random(2020)  # noqa: S311 - no secret
    rows: dict[str, tuple[str, ...]] = {}
    while len(rows) < TRAIN_ROWS + TEST_ROWS:
        # The competition's own proportions, roughly: 40 % neutral, 31 % positive, 28 % negative.
        sentiment = draw.choices(["neutral", "positive", "negative"], [40, 31, 29])[0]
        text, selected = _tweet(draw, sentiment)
        if text not in rows:
            rows[text] = (f"{draw.getrandbits(40):010x}", text, selected, sentiment)
    table = pd.DataFrame(rows.values(), columns=["textID", "text", "selected_text", "sentiment"])
    return table[:TRAIN_ROWS], table[TRAIN_ROWS:]


def _tweet(draw: random.Random, sentiment: str) -> tuple[str, str]:
    first, second = draw.sample(SCENES, 2)
    scene = draw.choice([first, f"{draw.choice(OPENERS)} {first}"])
    if sentiment == "neutral":
        text = scene + draw.choice(["", f" {draw.choice(LINKS)} {second}"]) + draw.choice(ENDS)
        return draw.choice(["", " "]) + text, text
    wanted, other = (POSITIVE, NEGATIVE) if sentiment == "positive" else (NEGATIVE, POSITIVE)
    phrase = draw.choice(wanted)
    link = draw.choice(LINKS)
    text = draw.choice(
        [
            f"{scene} {link} {phrase}",
            f"{scene}, {phrase}",
            f"{phrase} {link} {first}",
            f"{scene}, {draw.choice(other)} {link} {phrase}",
            f"{scene}, {phrase} {link} {draw.choice(other)}",
        ]
    )
    # The competition's tweets begin with a blank where a name was cut off.
    return draw.choice(["", " "]) + text + draw.choice(ENDS), phrase
