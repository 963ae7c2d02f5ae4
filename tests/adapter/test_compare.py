"""Comparison without matrices: the same figures as with them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from contextgraft.adapter.analysis.compare import compare, count_tensors, factor_distance, total
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.errors import MismatchError


def product(rows: int, columns: int, rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_figures_are_those_of_the_whole_matrices(first_rank: int, second_rank: int, seed: int) -> None:
    first, second = product(20, 30, first_rank, seed), product(20, 30, second_rank, seed + 100)
    norms, inner, overlap, angle = factor_distance(first, second)
    whole = [(left @ right).double() for left, right in (first, second)]
    assert norms == pytest.approx([float(each.norm()) for each in whole], rel=1e-5)
    assert inner == pytest.approx(float((whole[0] * whole[1]).sum()), rel=1e-4, abs=1e-3)
    bases = [torch.linalg.qr(each).Q for each in (first[0], second[0], first[1].T, second[1].T)]
    cosines = torch.cat(
        [torch.linalg.svdvals(bases[0].T @ bases[1]), torch.linalg.svdvals(bases[2].T @ bases[3])]
    )
    assert overlap == pytest.approx(float(cosines.square().mean()), abs=1e-4)
    assert angle == pytest.approx(math.degrees(math.acos(min(float(cosines.min()), 1))), abs=0.5)


@pytest.fixture
def adapter(world: Any) -> Callable[[int], Adapter]:
    return lambda rank: open_adapter(world.adapters / f"r{rank}")


def test_an_adapter_is_at_no_distance_from_itself(adapter: Callable[[int], Adapter]) -> None:
    distances = compare(adapter(4), adapter(4))
    assert len(distances) == 14 + 5
    whole = total(distances)
    assert whole.relative == pytest.approx(0, abs=1e-6)
    assert (whole.cosine, whole.overlap, whole.angle) == pytest.approx((1, 1, 0), abs=1e-3)


def test_a_smaller_rank_lacks_what_lies_between(adapter: Callable[[int], Adapter], world: Any) -> None:
    distances = compare(adapter(2), adapter(8))
    for each in distances:
        if each.overlap is None:
            assert each.relative == 0
            continue
        sides = [load_file(world.adapters / f"r{rank}" / "adapter_model.safetensors") for rank in (2, 8)]
        key = f"base_model.model.{each.name.removesuffix('.weight')}.lora_"
        small, large = (side[f"{key}B.weight"].double() @ side[f"{key}A.weight"].double() for side in sides)
        assert each.difference == pytest.approx(float((small - large).norm()), rel=1e-4)
        assert each.ranks == (2, 8)
        assert each.angle == pytest.approx(0, abs=0.1)  # nested


def test_other_factors_of_the_same_delta_are_the_same(world: Any, tmp_path: Path, toy: Any) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    for name, data in toy.contents(world.adapters / "r4").items():
        (turned / name).write_bytes(data)
    factors = {key: tensor.float() for key, tensor in load_file(turned / "adapter_model.safetensors").items()}
    mix = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3))).Q
    mixed = {key: mix.T @ each if "lora_A" in key else each @ mix for key, each in factors.items()}
    save_file(
        {key: tensor.contiguous() for key, tensor in mixed.items()}, turned / "adapter_model.safetensors"
    )
    whole = total(compare(open_adapter(turned), open_adapter(world.adapters / "r4")))
    assert whole.relative == pytest.approx(0, abs=1e-5)


def test_a_tensor_of_one_alone_counts_whole(
    adapter: Callable[[int], Adapter], build: Any, tmp_path: Path
) -> None:
    made = build(tmp_path)
    extract(open_pair(made.base, made.donor, TensorSelection(include="q_proj")), [RankSpec(4)], made.adapters)
    some = open_adapter(made.adapters / "r4")
    whole = total(compare(some, adapter(4)))
    assert 0 < whole.norms[0] < whole.norms[1]
    assert whole.difference**2 == pytest.approx(whole.norms[1] ** 2 - whole.norms[0] ** 2, rel=1e-5)


def test_adapters_of_other_shapes_are_refused(
    adapter: Callable[[int], Adapter], build: Any, tmp_path: Path
) -> None:
    made = build(tmp_path, hidden_size=32)
    extract(open_pair(made.base, made.donor), [RankSpec(2)], made.adapters)
    with pytest.raises(MismatchError, match=r"does not fit .* at tensor"):
        compare(adapter(4), open_adapter(made.adapters / "r2"))
    with pytest.raises(MismatchError, match=r"does not fit .* at tensor"):
        count_tensors(adapter(4), open_adapter(made.adapters / "r2"))


def test_directions_that_no_delta_goes_along_do_not_count() -> None:
    left, right = product(20, 30, 3, 1)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2))).Q
    padded = torch.cat([left, torch.zeros(20, 2)], 1) @ turn, turn.T @ torch.cat([right, torch.zeros(2, 30)])
    _, _, overlap, angle = factor_distance((left, right), padded)
    assert overlap == pytest.approx(1, abs=1e-6)
    assert angle == pytest.approx(0, abs=0.1)
    assert factor_distance((left, right), (torch.zeros(20, 2), torch.randn(2, 30)))[2:] == (None, None)
