"""Listeners to the runs that open in this process, in rooms that this one cannot import."""

from collections.abc import Callable

Listener = Callable[[str, Callable[..., None]], None]
"""Called with a run's id, and with `log_inputs` as MLflow's stores have it."""

listeners: list[Listener] = []


def tell(run_id: str, log_inputs: Callable[..., None]) -> None:
    """Tell everybody that a run opens here."""
    for listener in listeners:
        listener(run_id, log_inputs)
