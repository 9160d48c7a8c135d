"""A watcher of its own process, for a test that kills it: `python -m tests.campaign.one_turn …`."""

import sys
from pathlib import Path

from kaggleops.campaign.watch import Watcher

from .platform import Somewhere


def main(place: str, index: str, folder: str) -> None:
    """Take one turn over the platform in a folder."""
    platform = Somewhere(Path(folder))
    watcher = Watcher(place, index=index, backends=lambda name: platform)
    turn = watcher.turn()
    sys.stdout.write("\n".join([*turn.done, *turn.problems]))
    watcher.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
