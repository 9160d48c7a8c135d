"""What is decided by the device, and what is said of how fast it was. No GPU is needed."""

import pytest

from competitions.inference import loader_arguments, precision_of
from competitions.progress import peak, throughput
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


@pytest.mark.parametrize(
    ("device", "form", "known"),
    [
        ("Tesla T4", "fp16", ("T4", 65)),
        ("Tesla T4", "fp32", ("T4", 8.1)),
        ("Tesla T4", "bf16", None),
        ("Tesla P100-PCIE-16GB", "fp32", ("P100", 9.3)),
        ("Tesla V100-PCIE-16GB", "fp16", ("V100-PCIE", 112)),
        ("Tesla V100-SXM2-16GB", "fp16", ("V100", 125)),
        ("NVIDIA L4", "bf16", ("L4", 121)),
        ("NVIDIA L40S", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA A100-SXM4-40GB", "bf16", ("A100", 312)),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA H100 80GB HBM3", "bf16", ("H100 80GB HBM3", 989)),
        ("NVIDIA H100 PCIe", "bf16", ("H100 PCIe", 756)),
        ("NVIDIA GeForce RTX 4090", "bf16", ("RTX 4090", 165)),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
    ],
)
def test_the_peak_of_a_device(device: str, form: str, known: tuple[str, float] | None) -> None:
    assert peak(device, form) == known


def test_the_speed_beside_the_peak() -> None:
    measured = (5000, 200_000, 2e14, 10)  # rows, tokens, operations, seconds
    said = "speed: 500 samples/s, 20,000 tokens/s, "
    one = throughput(*measured, ["Tesla T4"], "fp16")
    assert one == said + "20.0 TFLOP/s: 31% of a T4's 65 TFLOP/s in fp16"
    two = throughput(*measured, ["Tesla T4"] * 2, "fp16")
    assert two == said + "20.0 TFLOP/s: 15% of 2 x T4's 130 TFLOP/s in fp16"
    for unknown in ([], ["Some GPU"]):
        assert throughput(*measured, unknown, "fp32") == said + "20 TFLOP/s"
