"""What a bucket cannot keep is refused in one line, and nothing of MLflow's interface is missed."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, MlflowNotImplementedException
from mlflow.store.model_registry.abstract_store import AbstractStore as AbstractRegistry
from mlflow.store.tracking.abstract_store import AbstractStore

from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.store import BucketTrackingStore
from kaggleops.tracking.unsupported import UnsupportedRegistry, UnsupportedTracking

STORES = [
    (BucketTrackingStore, AbstractStore, UnsupportedTracking),
    (BucketRegistryStore, AbstractRegistry, UnsupportedRegistry),
]


def methods(interface: type) -> dict[str, Callable[..., Any]]:
    """Return the public methods of one of MLflow's interfaces."""
    found = inspect.getmembers(interface, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_")}


def refuses(method: Callable[..., Any]) -> bool:
    """Tell whether MLflow's own code of a method does nothing but refuse."""
    method = inspect.unwrap(method)
    names = method.__code__.co_names
    # What the file store refuses by a decorator has an empty body.
    empty = not names and "pass" in inspect.getsource(method)
    advice = "FileStore" in str(method.__code__.co_consts[1:])
    return (
        empty or advice or bool({"NotImplementedError", "MlflowNotImplementedException"} & {*names})
    )


@pytest.mark.parametrize(("store", "interface", "unsupported"), STORES)
def test_whatever_mlflow_does_not_do_in_files_is_refused(
    store: type, interface: type, unsupported: type
) -> None:
    left = [name for name in methods(interface) if refuses(getattr(store, name))]
    assert left == []


@pytest.mark.parametrize(("store", "interface", "unsupported"), STORES)
def test_nothing_is_refused_that_works_in_files(
    store: type, interface: type, unsupported: type
) -> None:
    below = store.__mro__[store.__mro__.index(unsupported) + 1]
    working = [
        name
        for name in methods(unsupported)
        if hasattr(below, name) and not refuses(getattr(below, name))
    ]
    assert working == []


@pytest.mark.parametrize(("store", "interface", "unsupported"), STORES)
def test_each_refusal_is_one_line_that_says_what_to_use_instead(
    store: type, interface: type, unsupported: type, tracking_uri: str
) -> None:
    opened = store(tracking_uri)
    for name, method in methods(unsupported).items():
        known = methods(interface).get(name, method)
        parameters = list(inspect.signature(known).parameters.values())[1:]
        required = [each for each in parameters if each.default is inspect.Parameter.empty]
        keywords = {each.name: "x" for each in required if each.kind is each.KEYWORD_ONLY}
        with pytest.raises(MlflowException) as caught:
            getattr(opened, name)(*["x"] * (len(required) - len(keywords)), **keywords)
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        assert "not kept in a bucket. " in message
        assert "\n" not in message
        # MLflow's own code looks for either, to do without.
        assert isinstance(caught.value, NotImplementedError)
        assert isinstance(caught.value, MlflowNotImplementedException)
