"""What processes left behind that ended before the bucket had everything: find it and send it.

Artifacts that processes left behind: find them and send them.
"""

import fcntl
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.bucket import BucketError, BucketUnavailableError, ObjectNotFoundError
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import Entity, EntityId, EntityStore, experiment
from kaggleops.mlruns.folder import entities_in, read_base, read_folder
from kaggleops.mlruns.merge_rules import merge_onto
from kaggleops.tracking.artifact_uploads import Sender
from kaggleops.tracking.names import DEFAULT_ID
from kaggleops.tracking.ownership import OWNER, outboxes, remove
from kaggleops.tracking.spool import Kept, Place, found_spools, spools_of

_DEFAULT = experiment(DEFAULT_ID)


@dataclass
class Sent:
    """What became of the folders that were found."""

    entities: list[EntityId] = field(default_factory=list)
    """What the bucket did not have yet and has now."""
    in_use: list[Path] = field(default_factory=list)
    """Folders of processes that still run; they send what is theirs."""
    renamed: list[str] = field(default_factory=list)
    """What was sent under another name than its own, a sentence each."""
    problems: list[str] = field(default_factory=list)
    """What could not be sent; its folder stays."""


def send_left_behind(
    store: EntityStore, progress: Callable[[int, int], None] = lambda done, total: None
) -> Sent:
    """Send what ended processes on this machine left unsent for a bucket.

    Args:
        store: the bucket's entities.
        progress: called with how many entities were looked at, and how many there are.
    """
    result = Sent()
    with ExitStack() as held:
        found = list(_left_behind(store.bucket.uri, result, held))
        content = [(folder, _worth_sending(folder)) for folder in found]
        total, done = sum(len(entities) for _, entities in content), 0
        for folder, entities in content:
            problems = len(result.problems)
            for entity_id, place in entities:
                try:
                    if _send(store, read_folder(entity_id, place, read_base(place)), result):
                        result.entities.append(entity_id)
                except BucketUnavailableError as error:
                    waiting = total - done
                    problem = f"{error} {waiting} runs and experiments wait on this machine."
                    result.problems.append(problem)
                    return result  # the others would wait as long, and fail as well
                except (KaggleOpsError, OSError) as error:
                    result.problems.append(str(error))
                done += 1
                progress(done, total)
            if len(result.problems) == problems:
                remove(folder)
    return result


def _worth_sending(folder: Path) -> list[tuple[EntityId, Path]]:
    entities = list(entities_in(folder / "mlruns", homeless=True))
    homes = {entity_id.experiment_id for entity_id, _ in entities if entity_id.name}
    if DEFAULT_ID in homes:
        return entities
    # The file store wants a default experiment; one that nobody used is nobody's.
    return [(entity_id, place) for entity_id, place in entities if entity_id != _DEFAULT]


def _left_behind(bucket_uri: str, result: Sent, held: ExitStack) -> Iterator[Path]:
    """Yield the folders that no process owns, each owned by this one from now on."""
    for home in outboxes(bucket_uri):
        for folder in (each.parent for each in sorted(home.glob("*/mlruns"))):
            try:
                owner = held.enter_context((folder / OWNER).open("a"))
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                continue  # somebody else has just sent it
            except BlockingIOError:
                result.in_use.append(folder)
                continue
            if (folder / "mlruns").is_dir():  # else somebody else has just sent it
                yield folder


def _send(store: EntityStore, entity: Entity, result: Sent) -> bool:
    try:
        theirs = store.read(entity.id)
    except ObjectNotFoundError:
        store.merge_in(entity)
        return True
    assert theirs is not None  # noqa: S101 - it was read unconditionally
    merged, renamed = merge_onto(theirs.entity, entity)
    result.renamed += renamed
    if merged == theirs.entity:
        return False
    result.renamed += store.merge_in(merged, known=theirs.version).renamed
    return True


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
        _artifact_outbox_send(to_send, result, progress)
    return result


def _artifact_outbox_send(
    to_send: list[Kept], result: SentArtifacts, progress: Callable[[int, int], None]
) -> None:
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
