"""Hypothesis strategies for entities, shaped as MLflow's file store writes them."""

from typing import Any

from hypothesis import strategies as st

from kaggleops.layout import EntityId
from kaggleops.mlruns import Entity, Kind, Notes, run
from kaggleops.mlruns.entity import META, Stamp, dump_yaml
from kaggleops.mlruns.merge_rules import status_rank

RUN = run("1", "f" * 32)

names = st.sampled_from(
    ["a", "b", "a/b", "a/b/c", "a.self", "loss", "eval", "eval/loss", "déjà vu", "x.y"]
)
times = st.integers(0, 3)
# In one folder, no name is a file and a folder.
names_of_files = st.sets(names, max_size=4).map(
    lambda chosen: {
        each for each in chosen if not any(other.startswith(f"{each}/") for other in chosen)
    }
)
points = st.builds(
    lambda at, value, step: f"{at} {value} {step}\n".encode(),
    times,
    st.sampled_from(["0.5", "nan", "inf", "-inf", "1e-09"]),
    st.integers(0, 2),
)


def run_meta(**changes: Any) -> dict[str, Any]:
    """Return a run's meta.yaml as the file store writes it."""
    return {
        "artifact_uri": f"gs://b/artifacts/1/{RUN.name}/artifacts",
        "end_time": None,
        "entry_point_name": "",
        "experiment_id": "1",
        "lifecycle_stage": "active",
        "run_id": RUN.name,
        "run_name": "brave-fox",
        "run_uuid": RUN.name,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": 1_700_000_000_000,
        "status": 1,
        "tags": [],
        "user_id": "ada",
        **changes,
    }


@st.composite
def runs(draw: st.DrawFn) -> Entity:
    """Draw one version of one run: params' values agree between versions, nothing else needs to."""
    meta = run_meta(
        status=draw(st.sampled_from([1, 2, 3, 4, 5])),
        end_time=draw(st.sampled_from([None, 1, 2])),
        run_name=draw(st.sampled_from(["brave-fox", "shy-owl"])),
        lifecycle_stage=draw(st.sampled_from(["active", "deleted"])),
    )
    files = {META: dump_yaml(meta)}
    for name in draw(names_of_files):
        files[f"params/{name}"] = draw(st.sampled_from([b"1e-1", b"0.1", b"0.10"]))
    for name in draw(names_of_files):
        files[f"metrics/{name}"] = b"".join(draw(st.lists(points, min_size=1, max_size=4)))
    notes = Notes(heartbeat=draw(times), promise=draw(times))
    for name in draw(names_of_files):
        path = f"tags/{name}"
        if draw(st.booleans()):
            files[path] = draw(st.sampled_from([b"red", b"green", b""]))
            notes.written[path] = draw(times)
        else:
            notes.deleted[path] = draw(times)
    for register in draw(st.sets(st.sampled_from(["name", "status", "lifecycle"]))):
        rank = status_rank(Kind.RUN, meta["status"]) if register == "status" else 0
        round_ = draw(st.integers(0, 2)) if register == "status" else 0
        notes.registers[register] = Stamp(round_, rank, draw(times))
    folders = draw(st.sets(st.sampled_from(["metrics", "params", "tags", "artifacts"])))
    return Entity(RUN, files, frozenset(folders), notes)


def entity(entity_id: EntityId = RUN, **files: bytes) -> Entity:
    """Return a small entity; `__` in a name stands for "/"."""
    return Entity(entity_id, {name.replace("__", "/"): data for name, data in files.items()})


def main_file(entity_id: EntityId, **changes: Any) -> dict[str, bytes]:
    """Return the file without which MLflow's file store refuses an entity of this id."""
    home, name = entity_id.experiment_id, entity_id.name
    location = f"gs://b/artifacts/{home}"
    content: dict[Kind, dict[str, Any]] = {
        Kind.EXPERIMENT: {
            "artifact_location": location,
            "creation_time": 1,
            "experiment_id": home,
            "last_update_time": 1,
            "lifecycle_stage": "active",
            "name": f"experiment {home}",
        },
        Kind.RUN: run_meta(
            artifact_uri=f"{location}/{name}/artifacts",
            experiment_id=home,
            run_id=name,
            run_uuid=name,
        ),
        Kind.LOGGED_MODEL: {
            "artifact_location": f"{location}/models/{name}/artifacts",
            "creation_timestamp": 1,
            "experiment_id": home,
            "last_updated_timestamp": 1,
            "model_id": name,
            "name": "encoder",
            "status": 2,
        },
        Kind.TRACE: {
            "request_time": "2026-11-21T11:59:45.166Z",
            "state": "OK",
            "trace_id": name,
            "trace_location": {
                "mlflow_experiment": {"experiment_id": home},
                "type": "MLFLOW_EXPERIMENT",
            },
        },
        Kind.DATASET: {"digest": "d", "name": "tweets", "source": "{}", "source_type": "local"},
        Kind.REGISTERED_MODEL: {"creation_timestamp": 1, "last_updated_timestamp": 1, "name": name},
    }
    path = "trace_info.yaml" if entity_id.kind is Kind.TRACE else META
    return {path: dump_yaml({**content[entity_id.kind], **changes})}
