"""What is decided by the device. No GPU is needed."""

import pytest

from competitions.inference import loader_arguments, precision_of
from competitions.schema import Precision


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 0), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_the_number_format_by_the_generation(capability: tuple[int, int], precision: str) -> None:
    assert precision_of(capability) is Precision[precision]


def test_batches_are_prepared_beside_a_gpu_and_never_beside_a_cpu() -> None:
    assert loader_arguments(False, 8) == {"dataloader_pin_memory": False}
    assert loader_arguments(True, 8)["dataloader_num_workers"] == 2
    assert loader_arguments(True, 1)["dataloader_num_workers"] == 1
    assert loader_arguments(True, 1)["dataloader_pin_memory"]
