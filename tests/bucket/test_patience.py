"""How long a passing fault has lasted when the patience ends."""

import time
from types import SimpleNamespace

import pytest

from kaggleops.bucket.patience import OutOfPatienceError, Patience


class BusyError(Exception):
    """A service asks to be left alone for longer than anybody here waits."""

    response = SimpleNamespace(headers={"retry-after": "100"})


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, ""), (38.21, ", and so for 38.2 s"), (110, ", and so for 110 s")],
)
def test_it_says_the_time_that_really_went_by(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def ask() -> None:
        clock[0] += seconds
        raise BusyError

    with pytest.raises(OutOfPatienceError) as raised:
        Patience(60, lambda error: True)(ask)()
    assert raised.value.lasted == said
