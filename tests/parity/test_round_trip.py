"""Extracted at full rank and merged onto the base, an adapter gives the donor back, whatever the model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

FULL = 256  # above every side
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}


def bound(factors: dict[str, torch.Tensor], name: str, donor: torch.Tensor) -> torch.Tensor:
    """What rounding may do to each element: once to either factor, once to the sum, float32 in between."""
    unit = ROUNDING[donor.dtype]
    key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    A, B = (factors[f"{key}{which}.weight"].float().abs() for which in "AB")
    return unit * (donor.float().abs() + 2.1 * (B @ A)) + 2e-6


def check(trio: Any, out: Path) -> None:
    adapter = trio.extract(FULL, out / "adapter")
    graft = trio.merge(adapter, out / "graft", "base")
    base, donor = trio.weights("base"), trio.weights("donor")
    factors = load_file(adapter / "adapter_model.safetensors")
    assert graft.keys() == donor.keys()
    for name, tensor in donor.items():
        if tensor.ndim == 2 and ".layers." in name:
            allowed = bound(factors, name, tensor)
            assert ((graft[name].float() - tensor.float()).abs() <= allowed).all(), name
            assert ((base[name].float() - tensor.float()).abs() > allowed).float().mean() > 0.5, name
        else:
            assert torch.equal(graft[name], tensor), name


def test_full_rank_gives_the_donor_back(trio: Any, tmp_path: Path) -> None:
    check(trio, tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mixtral"])
def test_in_float32_too(name: str, kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.build(name, tmp_path / "models", torch.float32)
    check(kit.Trio(name, tmp_path / "models"), tmp_path)
