"""Rounding: representable, to a neighbour, right in expectation, the same for the same name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.merge.rounding import nearest, round_up_or_down, stochastic
from contextgraft.adapter.verify.graft import verify

DTYPES = [torch.bfloat16, torch.float16]


@settings(max_examples=200)
@given(st.floats(-60000, 60000, width=32), st.floats(0, 0.9990234375, width=32), st.sampled_from(DTYPES))
def test_the_result_is_a_neighbour_that_the_dtype_holds(
    value: float, chance: float, dtype: torch.dtype
) -> None:
    exact = torch.tensor([value])
    found = round_up_or_down(exact, torch.tensor([chance]), dtype)
    assert torch.equal(found.to(dtype).float(), found)
    nearest_one = exact.to(dtype).float()
    step = (
        torch.nextafter(nearest_one.to(dtype), torch.tensor([torch.inf], dtype=dtype)).float() - nearest_one
    )
    back = (
        nearest_one - torch.nextafter(nearest_one.to(dtype), torch.tensor([-torch.inf], dtype=dtype)).float()
    )
    assert abs(float(found - exact)) <= max(float(step), float(back))
    if torch.equal(nearest_one, exact):
        assert torch.equal(found, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_steps_survive_in_expectation(dtype: torch.dtype) -> None:
    old = torch.full((1 << 16,), 1.0)
    new = old + 2.0**-13  # far below half a unit in the last place
    lost = nearest("x")(new, torch.empty_like(new, dtype=dtype)).float() - old
    kept = stochastic("x")(new, torch.empty_like(new, dtype=dtype)).float() - old
    assert not lost.any()
    assert float(kept.mean()) == pytest.approx(2.0**-13, rel=0.2)
    assert len(set(kept.tolist())) == 2


def test_the_name_decides_the_chances() -> None:
    values = torch.randn(1000)
    out = [stochastic(name)(values, torch.empty(1000, dtype=torch.bfloat16)) for name in ("a", "a", "b")]
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out[0], out[2])


def test_float32_is_left_as_it_is() -> None:
    values = torch.randn(100)
    assert torch.equal(stochastic("a")(values, torch.empty(100)), values)


def test_a_graft_keeps_more_of_a_small_delta(world: Any, tmp_path: Path) -> None:
    adapter = open_adapter(world.adapters / "r8")
    kept = {}
    for rounding in ("nearest", "stochastic"):
        graft = plan_merge([ScaledAdapter(adapter, 0.003)], world.target, rounding=rounding)
        manifest = merge(graft, tmp_path / rounding, threads=2)
        again = merge(graft, tmp_path / "again")
        assert manifest["tensors"] == again["tensors"]
        checks = verify(tmp_path / rounding, target=world.target, adapters=[adapter.path])
        assert all(check.holds for check in checks), checks
        records = [record for record in manifest["tensors"].values() if record["applied"]]
        inner = sum(record["kept"] * record["delta_norm"] ** 2 for record in records)
        kept[rounding] = inner / sum(record["delta_norm"] ** 2 for record in records)
        for file in (tmp_path / "again").iterdir():
            file.unlink()
    assert kept["nearest"] < 0.9
    assert kept["stochastic"] == pytest.approx(1, abs=0.1)
