"""Peaks of cards by the names that drivers give them, and which runs know theirs."""

from pathlib import Path

import pytest
import torch

from contextgraft.planning.mfu.cards import peak_flops
from contextgraft.planning.mfu.model_flops import model_flops

RECIPE = Path(__file__).parents[2] / "config/recipes/llama3-8b-1048k-one-node.yaml"
SHAPE = Path(__file__).parents[2] / "src/contextgraft/planning/shapes/llama3-8b.json"


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A40", 149.7),
        ("NVIDIA A30", 165),
        ("NVIDIA L40", None),
        ("NVIDIA A10", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_the_peak_of_a_card_is_that_of_its_data_sheet(name: str, teraflops: float | None) -> None:
    assert peak_flops(name) == (teraflops and pytest.approx(teraflops * 1e12))


def test_a_run_in_bfloat16_on_a_known_card_has_an_mfu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 3 8B, one sequence of 8192 tokens: 6 P T + 6 layers d T^2, by hand; eight cards."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    flops = model_flops(RECIPE, SHAPE, device="cuda", dtype=torch.bfloat16, devices=8)
    assert flops is not None
    assert flops.peak == 8 * 989e12
    assert flops.of_sequence(8192) == 6 * 8_030_261_248 * 8192 + 6 * 32 * 4096 * 8192**2
    assert model_flops(RECIPE, SHAPE, device="cuda", dtype=torch.float32) is None
    given = model_flops(RECIPE, SHAPE, device="cuda", dtype=torch.float32, peak=67e12)
    assert given is not None
    assert given.peak == 67e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another card")
    assert model_flops(RECIPE, SHAPE, device="cuda", dtype=torch.bfloat16) is None


def test_a_run_on_processors_has_none() -> None:
    assert model_flops(RECIPE, SHAPE, device="cpu", dtype=torch.bfloat16) is None
