"""Every entity has one key, and every key names one entity or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.layout import is_model_name, parse_key
from kaggleops.mlruns import EntityId, Kind, experiment, run

ENTITIES = [
    (experiment("0"), "mlruns/0.tar.gz"),
    (experiment("12345"), "mlruns/12345.tar.gz"),
    (run("1", "a" * 32), f"mlruns/1/{'a' * 32}.tar.gz"),
    (EntityId(Kind.LOGGED_MODEL, "1", "m-1"), "mlruns/1/models/m-1.tar.gz"),
    (EntityId(Kind.TRACE, "1", "tr-1"), "mlruns/1/traces/tr-1.tar.gz"),
    (EntityId(Kind.DATASET, "1", "d1"), "mlruns/1/datasets/d1.tar.gz"),
    (EntityId(Kind.REGISTERED_MODEL, "", "my model"), "mlruns/models/my model.tar.gz"),
    (EntityId(Kind.REGISTERED_MODEL, "", "50%_a*b"), "mlruns/models/50%25_a%2Ab.tar.gz"),
]


@pytest.mark.parametrize(("entity_id", "key"), ENTITIES)
def test_keys(entity_id: EntityId, key: str) -> None:
    assert entity_id.key == key
    assert parse_key(key) == entity_id


@given(st.text(min_size=1, max_size=60).filter(is_model_name))
def test_any_registered_model_name_has_its_own_key(name: str) -> None:
    entity_id = EntityId(Kind.REGISTERED_MODEL, "", name)
    assert parse_key(entity_id.key) == entity_id


@pytest.mark.parametrize(
    "key",
    [
        "mlruns/1/../2.tar.gz",
        "mlruns/1/x.zip",
        "mlruns/1/tags.tar.gz",
        "mlruns/1/unknown/x.tar.gz",
        "mlruns/1/models/a/b.tar.gz",
        "artifacts/1/x.tar.gz",
        "mlruns/.tar.gz",
        "mlruns/models/%2e.tar.gz",
        # Names that would lead out of the folder of all models.
        "mlruns/models/...tar.gz",
        "mlruns/models/..%2F..%2Fx.tar.gz",
        "mlruns/models/%2Fetc%2Fx.tar.gz",
        "mlruns/models/a%5Cb.tar.gz",
        "mlruns/models/a%00b.tar.gz",
        f"mlruns/models/{'n' * 300}.tar.gz",
    ],
)
def test_other_objects_are_none_of_ours(key: str) -> None:
    assert parse_key(key) is None
