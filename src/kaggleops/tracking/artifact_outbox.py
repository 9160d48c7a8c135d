"""Artifacts that processes left behind: find them and send them."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.bucket import BucketError, BucketUnavailableError
from kaggleops.tracking.artifact_uploads import Sender
from kaggleops.tracking.spool import Kept, Place, found_spools, spools_of

_log = logging.getLogger("kaggleops")


@dataclass
class SentArtifacts:
    """What became of the kept files that were found."""

    places: list[Place] = field(default_factory=list)
    """Where a file was sent."""
    in_use: list[Path] = field(default_factory=list)
    """Folders of processes that still run; they send what is theirs."""
    problems: list[str] = field(default_factory=list)
    """What could not be sent; it stays where it is."""


def send_kept_artifacts(
    bucket_uri: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> SentArtifacts:
    """Send the artifacts that ended processes on this machine left unsent.

    Args:
        bucket_uri: the bucket that their runs are tracked in.
        progress: called with how many bytes were looked at, and how many there are.
    """
    result = SentArtifacts()
    with found_spools(bucket_uri) as spools:
        every = [kept for spool in spools for kept in spool.kept]
        newest = {kept.place: kept for kept in sorted(every, key=lambda kept: kept.logged_ms)}
        result.in_use = [spool.folder for spool in spools if spool.in_use]
        to_send: list[Kept] = []
        for kept in (kept for spool in spools if not spool.in_use for kept in spool.kept):
            if newest[kept.place] is kept:
                to_send.append(kept)
            else:
                kept.remove()
        _send(to_send, result, progress)
    return result


def _send(to_send: list[Kept], result: SentArtifacts, progress: Callable[[int, int], None]) -> None:
    sender = Sender()
    sizes = [kept.content.stat().st_size for kept in to_send]
    for number, kept in enumerate(to_send):
        progress(sum(sizes[:number]), sum(sizes))
        try:
            sender.send(kept, kept.replaces)
        except BucketUnavailableError as error:
            waiting = len(to_send) - number
            result.problems.append(f"{error} {waiting} artifacts wait on this machine.")
            return  # the others would wait as long, and fail as well
        except BucketError as error:
            result.problems.append(str(error))
        else:
            result.places.append(kept.place)
            kept.remove()
    progress(sum(sizes), sum(sizes))


def send_earlier_artifacts(bucket_uri: str) -> None:
    """Send what earlier processes left: a kernel that was restarted, say.

    In a thread that nobody waits for: it may be much, and `kaggleops push` sends the rest.
    """
    if any(home.is_dir() for home in spools_of(bucket_uri)):
        name = "kaggleops-earlier-artifacts"
        threading.Thread(target=_send_earlier, args=(bucket_uri,), name=name, daemon=True).start()


def _send_earlier(bucket_uri: str) -> None:
    sent = send_kept_artifacts(bucket_uri)
    for problem in sent.problems:
        _log.warning("%s", problem)
    if sent.places:
        count, first = len(sent.places), sent.places[0]
        _log.warning("Sent %d artifacts that an earlier process had kept here: %s …", count, first)
