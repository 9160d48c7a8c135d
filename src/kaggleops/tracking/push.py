"""Send what processes of this machine left behind that ended before the bucket had everything."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from kaggleops.bucket import BucketUnavailableError, ObjectNotFoundError, open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import DEFAULT_ID
from kaggleops.mlruns import EntityId, EntityStore, experiment
from kaggleops.mlruns.folder import entities_in, read_base, read_folder
from kaggleops.mlruns.merge_rules import merge_onto
from kaggleops.tracking.artifact_uploads import PATIENCE, write_artifact
from kaggleops.tracking.outbox import Kept, Place, kept_in, left_behind, remove

_DEFAULT = experiment(DEFAULT_ID)


@dataclass
class Sent:
    """What became of the folders that were found."""

    # what the bucket did not have yet and has now
    entities: list[EntityId] = field(default_factory=list)
    artifacts: list[Place] = field(default_factory=list)  # where an artifact was sent
    # folders of processes that still run; they send what is theirs
    in_use: list[Path] = field(default_factory=list)
    # what was sent under another name than its own, a sentence each
    renamed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what could not be sent; its folder stays


def push(
    store: EntityStore,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    since: str = "",
) -> Sent:
    """Send what ended processes on this machine left unsent for a bucket.

    `progress` is called with how many of them and of the artifacts were looked at, and with how
    many there are. Folders made before the one named `since` are left alone.
    """
    result = Sent()
    with ExitStack() as held:
        folders = list(left_behind(store.bucket.uri, result.in_use, held, since=since))
        kept = {folder: kept_in(folder) for folder in (*folders, *result.in_use)}
        every = sorted(chain(*kept.values()), key=lambda each: each.logged_ms)
        newest = {each.place: each for each in every}
        buckets = {store.bucket.uri: store.bucket}

        def send_artifact(each: Kept) -> None:
            if newest[each.place] is each:
                if (uri := each.place.bucket) not in buckets:
                    buckets[uri] = open_bucket(uri, patience=PATIENCE)
                bucket = buckets[uri]
                write_artifact(bucket, each.place.key, each.content, each.replaces, each)
                result.artifacts.append(each.place)
            remove(each.folder)

        to_send: list[tuple[Path, str, Callable[[], None]]] = []
        for folder in folders:
            entities = list(entities_in(folder / "mlruns", homeless=True))
            # The file store wants a default experiment; one that nobody used is nobody's.
            used = any(each.name and each.experiment_id == DEFAULT_ID for each, _ in entities)
            for found in entities:
                if used or found[0] != _DEFAULT:
                    step = partial(_send_entity, store, *found, result)
                    to_send.append((folder, store.bucket.uri, step))
        for folder in folders:
            for each in kept[folder]:
                to_send.append((folder, each.place.bucket, partial(send_artifact, each)))
        away: dict[str, str] = {}
        unsent, waiting = set(), Counter[str]()
        for done, (folder, bucket, send) in enumerate(to_send):
            progress(done, len(to_send))
            try:
                if bucket not in away:  # else this would wait as long, and fail as well
                    send()
                    continue
            except BucketUnavailableError as error:
                away[bucket] = str(error)
            except (KaggleOpsError, OSError) as error:
                result.problems.append(str(error))
            unsent.add(folder)
            waiting[bucket] += 1
        for bucket, why in away.items():
            count = waiting[bucket]
            result.problems.append(f"{why} {count} runs and artifacts wait on this machine.")
        for folder in folders:
            if folder not in unsent:
                remove(folder)
        progress(len(to_send), len(to_send))
    return result


def _send_entity(store: EntityStore, entity_id: EntityId, place: Path, result: Sent) -> None:
    entity = read_folder(entity_id, place, read_base(place))
    try:
        theirs = store.read(entity.id)
    except ObjectNotFoundError:
        store.merge_in(entity)
    else:
        merged, renamed = merge_onto(theirs.entity, entity)
        result.renamed += renamed
        if merged == theirs.entity:
            return
        result.renamed += store.merge_in(merged, known=theirs.version).renamed
    result.entities.append(entity_id)
