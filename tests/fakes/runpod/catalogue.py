"""What RunPod has to offer, at prices of our own."""

from collections.abc import Mapping
from typing import Any

STOCK: Mapping[str, tuple[float, Mapping[str, str]]] = {
    "NVIDIA L4": (0.40, {"EU-RO-1": "HIGH", "US-KS-2": "LOW"}),
    "NVIDIA RTX A5000": (0.25, {"EU-RO-1": "LOW", "US-KS-2": "MEDIUM"}),
    "NVIDIA GeForce RTX 4090": (0.70, {"US-KS-2": "MEDIUM"}),
    "NVIDIA H100 PCIe": (2.50, {"EU-RO-1": "NONE"}),
}
"""The price of an hour, and what is free where, by the id of the GPU."""

_LEVELS = ("NONE", "LOW", "MEDIUM", "HIGH")


def described(gpu: str, stock: Mapping[str, str], *, availability: bool) -> dict[str, Any]:
    """Return a GPU as the catalogue shows it."""
    price, _ = STOCK[gpu]
    shown: dict[str, Any] = {
        "id": gpu,
        "name": gpu.removeprefix("NVIDIA ").removeprefix("GeForce "),
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": 24,
        "secure": True,
        "community": True,
        "price": {"secure": price, "community": price / 2},
        "maxCount": {"secure": 8, "community": 2},
    }
    if availability:
        shown["availability"] = max(stock.values(), key=_LEVELS.index, default="NONE")
        places = [
            {"id": each, "name": each, "availability": level} for each, level in stock.items()
        ]
        shown["dataCenters"] = [each for each in places if each["availability"] != "NONE"]
    return shown
