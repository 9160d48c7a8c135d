"""A watcher as `kaggleops watch` is one: `python -m tests.campaign.watching PLACE [SWEEP]`."""

import sys

from kaggleops.cli.watch import watch_in_foreground

if __name__ == "__main__":
    watch_in_foreground(*sys.argv[1:])
