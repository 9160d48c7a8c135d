"""A bucket into which somebody has written whatever they liked: every field of every entity.

Each object is sound but for one field. `SECRET` stands in a file beside the bucket, which nobody
may learn through it.
"""

import itertools
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, Notes, experiment, run
from kaggleops.mlruns.archive import pack
from kaggleops.mlruns.entity import META, dump_yaml, parse_yaml
from tests.mlruns.entities import main_file

SECRET = "the secret of this machine: " + secrets.token_hex(8)
HOME = experiment("7")
HEALTHY = run("7", "0" * 32)

HUGE = 2**70
LONG = "x" * 1_000_000
VALUES: tuple[Any, ...] = (
    HUGE,
    -(2**63),
    10**16,
    -1,
    True,
    float("nan"),
    "\0\x1b[2J\u202e",
    "../../../../etc",
    "x" * 10_000,
    None,
    [1, [2]],
    {"a": {"b": 1}},
)

FIELDS: Mapping[Kind, tuple[str, ...]] = {
    Kind.EXPERIMENT: (
        *("artifact_location", "creation_time", "experiment_id", "last_update_time"),
        *("lifecycle_stage", "name", "workspace"),
    ),
    Kind.RUN: (
        *("artifact_uri", "deleted_time", "end_time", "entry_point_name", "experiment_id"),
        *("lifecycle_stage", "name", "run_id", "run_name", "run_uuid", "source_name"),
        *("source_type", "source_version", "start_time", "status", "tags", "user_id"),
    ),
    Kind.LOGGED_MODEL: (
        *("artifact_location", "creation_timestamp", "last_updated_timestamp", "lifecycle_stage"),
        *("model_id", "model_type", "name", "source_run_id", "status", "status_message", "tags"),
    ),
    Kind.TRACE: (
        *("assessments", "client_request_id", "execution_duration", "execution_duration_ms"),
        *("execution_time_ms", "request_preview", "request_time", "response_preview", "state"),
        *("status", "tags", "timestamp_ms", "trace_id", "trace_location", "trace_metadata"),
    ),
    Kind.DATASET: ("digest", "name", "profile", "schema", "source", "source_type"),
    Kind.REGISTERED_MODEL: (
        *("aliases", "creation_timestamp", "description", "last_updated_timestamp"),
        *("latest_versions", "name", "tags"),
    ),
}
VERSION_FIELDS = (
    *("aliases", "creation_timestamp", "current_stage", "description", "last_updated_timestamp"),
    *("metrics", "model_id", "name", "params", "run_id", "run_link", "source", "status"),
    *("status_message", "storage_location", "tags", "user_id", "version"),
)
ASSESSMENT_FIELDS = (
    *("assessment_id", "assessment_name", "create_time", "create_time_ms", "expectation"),
    *("feedback", "last_update_time", "last_update_time_ms", "metadata", "overrides"),
    *("rationale", "run_id", "source", "span_id", "trace_id", "valid"),
)
LINK_FIELDS = ("source_type", "source_id", "destination_type", "destination_id", "tags", "step")
TAGS = (
    *("mlflow.runName", "mlflow.parentRunId", "mlflow.user", "mlflow.source.name", "lost"),
    *("mlflow.log-model.history", "mlflow.loggedArtifacts", "mlflow.note.content", "backend"),
    *("mlflow.source.git.commit", "mlflow.source.type", "git_commit", "git_branch", "cost_usd"),
    *("accelerator", "mlflow.rootRunId", "mlflow.project.backend", "hours", "competition"),
)
TEXTS = (b"", b"\0", b"\xff", b"9" * 5000, b"-1", b"nan", b"1e999", b"[" * 10_000, b"x" * 10_000)
POINTS = (
    b"9223372036854775808 0.5 0\n",
    b"-9999999999999999999 0.5 9999999999999999999\n",
    b"1 0.5 -9999999999999999999\n",
    b"1 " + b"9" * 1_000_000 + b" 0\n",
    b"1 1e999999999 0\n",
    b"1 nan 0\n1 inf 0\n1 -inf 0\n",
    b"1 0.5 0\n" * 3,
    b"",
    b"\0",
    b"1 0.5\n",
    b"1 0.5 0",
)


@dataclass
class Hostile:
    """The bucket.

    Args:
        folder: where it lies.
        located: what says that it lies elsewhere, and the location.
    """

    folder: Path
    located: list[tuple[EntityId, str]] = field(default_factory=list)
    all: list[EntityId] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"bucket+file://{self.folder}/mlruns"

    def put(self, entity_id: EntityId, data: bytes) -> None:
        """Write an object, past everything that could refuse it."""
        file = self.folder / entity_id.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.all.append(entity_id)


def make(folder: Path) -> Hostile:
    """Make the bucket in a folder; beside it lies `private/passwd`."""
    (folder.parent / "private").mkdir()
    (folder.parent / "private/passwd").write_text(SECRET)
    made = Hostile(folder)
    store = EntityStore(DirectoryBucket(folder))
    made.put(HOME, pack(_sound(HOME, store.artifact_root)))
    made.put(HEALTHY, pack(_sound(HEALTHY, store.artifact_root)))
    place = folder / f"artifacts/7/{HEALTHY.name}/artifacts"
    place.mkdir(parents=True)
    (place / "hello.txt").write_text("hello")
    (place / "link").symlink_to(folder.parent / "private/passwd")
    (place / "folder").symlink_to(folder.parent / "private")
    numbers = itertools.count(1)
    for kind, location in itertools.product(Kind, _locations(folder)):
        if kind is not Kind.DATASET:
            entity_id = _new(kind, next(numbers))
            made.put(entity_id, pack(_located(entity_id, location, store.artifact_root)))
            made.located.append((entity_id, location))
    linked = run("7", f"{next(numbers):032x}")
    made.put(linked, pack(_sound(linked, store.artifact_root)))
    (folder / "artifacts/7" / linked.name).mkdir()
    (folder / f"artifacts/7/{linked.name}/artifacts").symlink_to(folder.parent / "private")
    made.located.append((linked, "a link"))
    for kind, files, notes in _variants():
        entity_id = _new(kind, next(numbers))
        sound = _sound(entity_id, store.artifact_root)
        content = {**sound.files, **files(sound)}
        data = pack(Entity(entity_id, content, sound.folders, notes))
        made.put(entity_id, data)
    return made


def _locations(folder: Path) -> list[str]:
    private = folder.parent / "private"
    return [
        private.as_uri(),
        str(private),
        f"file:///proc/self/root{private}",
        f"{folder.as_uri()}/artifacts/../../private",
        f"{folder.as_uri()}/artifacts/%2e%2e/%2e%2e/private",
        f"{folder.as_uri()}/artifacts/7/{'e' * 32}/artifacts/../../../../../private",
        f"file://localhost{private}",
        "",
        "private",
        "gs://somebody-else/x",
        "s3://somebody-else/x",
        "http://127.0.0.1:9/x",
        "dbfs:/x",
        f"runs:/{'0' * 32}/../../../../private",
        "models:/itself/1",
        "mlflow-artifacts:/x",
        "no-such-scheme://x",
        "sqlite:///x",
    ]


def _new(kind: Kind, number: int) -> EntityId:
    if kind is Kind.EXPERIMENT:
        return experiment(str(1000 + number))
    if kind is Kind.REGISTERED_MODEL:
        return EntityId(kind, "", f"model {number}")
    prefix = {Kind.LOGGED_MODEL: "m-", Kind.TRACE: "tr-"}.get(kind, "")
    return EntityId(kind, "7", f"{prefix}{number:032x}")


def _sound(entity_id: EntityId, root: str) -> Entity:
    kind = entity_id.kind
    files = dict(main_file(entity_id))
    if kind is Kind.RUN:
        meta = parse_yaml(files[META], "")
        place = f"{root}/{entity_id.folder}/artifacts"
        files[META] = dump_yaml({**meta, "artifact_uri": place, "status": 3, "end_time": 5})
        files |= {"metrics/loss": b"1 0.5 0\n", "params/lr": b"0.1", "tags/colour": b"red"}
    if kind is Kind.TRACE:
        files["tags/mlflow.artifactLocation"] = f"{root}/{entity_id.folder}/artifacts".encode()
        files["request_metadata/mlflow.trace.session"] = b"s"
        files[f"assessments/{_assessed(entity_id)}.yaml"] = dump_yaml(_assessment(entity_id))
    if kind is Kind.REGISTERED_MODEL:
        files["version-1/meta.yaml"] = dump_yaml(_version(entity_id, root))
    has_metrics = kind in (Kind.RUN, Kind.LOGGED_MODEL)
    return Entity(entity_id, files, frozenset({"metrics", "params", "tags"} if has_metrics else ()))


def _assessed(trace: EntityId) -> str:
    # Every second one has an id that others have as well.
    return f"a-{trace.name[-8:]}" if int(trace.name[-1], 16) % 2 else "a-taken"


def _assessment(trace: EntityId) -> dict[str, Any]:
    return {
        "assessment_id": _assessed(trace),
        "assessment_name": "good",
        "create_time": "2026-11-21T11:59:45.166Z",
        "feedback": {"value": True},
        "last_update_time": "2026-11-21T11:59:45.166Z",
        "source": {"source_type": "HUMAN", "source_id": "ada"},
        "trace_id": trace.name,
        "valid": True,
    }


def _version(model: EntityId, root: str) -> dict[str, Any]:
    return {
        "creation_timestamp": 1,
        "current_stage": "None",
        "last_updated_timestamp": 1,
        "name": model.name,
        "source": f"{root}/7/{HEALTHY.name}/artifacts",
        "status": "READY",
        "version": 1,
    }


def _located(entity_id: EntityId, location: str, root: str) -> Entity:
    sound = _sound(entity_id, root)
    files = dict(sound.files)
    if entity_id.kind is Kind.TRACE:
        files["tags/mlflow.artifactLocation"] = location.encode()
        files["tags/mlflow.trace.archiveLocation"] = location.encode()
        files["tags/mlflow.trace.spansLocation"] = (
            b"ARCHIVE_REPO" if len(location) % 2 else b"ARTIFACT_REPO"
        )
    elif entity_id.kind is Kind.REGISTERED_MODEL:
        version = {**_version(entity_id, root), "source": location}
        files["version-1/meta.yaml"] = dump_yaml(version)
        files["version-2/meta.yaml"] = dump_yaml(
            {**_version(entity_id, root), "version": 2, "storage_location": location}
        )
    else:
        name = "artifact_uri" if entity_id.kind is Kind.RUN else "artifact_location"
        files[META] = dump_yaml({**parse_yaml(files[META], ""), name: location})
    return Entity(entity_id, files, sound.folders)


def _variants() -> Iterator[tuple[Kind, Any, Any]]:
    """Yield a kind, what makes its files hostile, and its notes.

    Not every value in every field: each field gets the next few values.
    """
    main = dict.fromkeys(Kind, META) | {Kind.TRACE: "trace_info.yaml"}
    values, texts = itertools.cycle(VALUES), itertools.cycle(TEXTS)
    for kind, names in FIELDS.items():
        for name, value in _few(names, values, 4):
            yield kind, _with(main[kind], name, value), Notes()
        yield kind, _with(main[kind], names[-1], LONG), Notes()
        yield kind, _with(main[kind], "name", LONG), Notes()
    for name, value in _few(VERSION_FIELDS, values, 4):
        yield Kind.REGISTERED_MODEL, _with("version-1/meta.yaml", name, value), Notes()
    for name, value in _few(ASSESSMENT_FIELDS, values, 4):
        yield Kind.TRACE, _with("assessments/", name, value), Notes()
    link = {
        **{"source_type": "DATASET", "source_id": "d", "destination_type": "RUN"},
        **{"destination_id": "r", "tags": {}},
    }
    for name, value in _few(LINK_FIELDS, values, 4):
        yield Kind.RUN, _fixed("inputs/i/meta.yaml", _yaml({**link, name: value})), Notes()
    for name, text in _few(TAGS, texts, 3):
        yield Kind.RUN, _fixed(f"tags/{name}", text), Notes()
    yield Kind.RUN, _fixed("tags/mlflow.note.content", LONG.encode()), Notes()
    for text in TEXTS:
        yield Kind.RUN, _fixed("params/lr", text), Notes()
        yield Kind.EXPERIMENT, _fixed("tags/t", text), Notes()
        yield Kind.TRACE, _fixed("request_metadata/mlflow.trace.session", text), Notes()
        yield Kind.TRACE, _fixed("request_metadata/mlflow.trace.tokenUsage", text), Notes()
        yield Kind.TRACE, _fixed("tags/t", text), Notes()
        yield Kind.REGISTERED_MODEL, _fixed("aliases/champion", text), Notes()
    for points in POINTS:
        yield Kind.RUN, _fixed("metrics/loss", points), Notes()
        yield Kind.LOGGED_MODEL, _fixed("metrics/loss", points), Notes()
    for name, value in itertools.product(("written", "deleted", "registers"), VALUES):
        for notes in (value, {"tags/colour": value}, {"status": [value] * 3}):
            yield Kind.RUN, _unchanged, _Notes({name: notes})
    for name, value in itertools.product(("heartbeat", "format"), VALUES):
        yield Kind.RUN, _unchanged, _Notes({name: value})
        yield Kind.RUN, _with(META, "status", 1), _Notes({name: [value, value]})


def _few(names: tuple[str, ...], values: Iterator[Any], count: int) -> Iterator[tuple[str, Any]]:
    for name in names:
        for value in itertools.islice(values, count):
            yield name, value
    next(values)  # so that no field of the next kind starts where this one's did


class _Notes(Notes):
    def __init__(self, changes: dict[str, Any]) -> None:
        super().__init__()
        self._changes = changes

    def to_bytes(self) -> bytes:
        return json.dumps({**self.to_json(), **self._changes}).encode()


def _with(path: str, name: str, value: Any) -> Any:
    def files(sound: Entity) -> dict[str, bytes]:
        [file] = [each for each in sound.files if each.startswith(path)]
        return {file: _yaml({**parse_yaml(sound.files[file], ""), name: value})}

    return files


def _fixed(path: str, data: bytes) -> Any:
    return lambda _: {path: data}


def _unchanged(_: Entity) -> dict[str, bytes]:
    return {}


def _yaml(value: dict[str, Any]) -> bytes:
    return dump_yaml(value)
