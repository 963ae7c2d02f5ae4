"""Attention sinks (gpt-oss) in the ring and the engine, against the definition and transformers."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, check_losses, save_three_layers
from .test_exact import BOUNDS, LAYOUTS, PLACES, fits
from .test_limited_attention import LIMITS, WORLDS

# with two of two experts, rounding cannot choose another one; grouped products take no float64
TWO_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 2, "experts_implementation": "eager"}
GPT_OSS = TWO_EXPERTS | {
    "model_type": "gpt_oss", "initializer_range": 0.5, "sliding_window": 20,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_attention_with_sinks_is_exact(ranks: Run, world: int) -> None:
    """Also with windows and documents apart, and with soft caps."""
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "heads": 8, "kv_heads": kv_heads, "dtype": dtype}
        | {"kernel": "cpu", "sinks": True, **limit}
        for layout, per_node in LAYOUTS[world]
        for kv_heads in (8, 2)
        for dtype in ("float64", "float32", "bfloat16")
        for limit in ({}, LIMITS[2], {"softcap": 0.3})
        if fits(layout, per_node, kv_heads)
    ][:: 5 if world == 2 else 1]
    found = ranks(world, "attention", cases=cases)
    for number, case in enumerate(cases):
        for rank in range(world):
            errors = {name: found[rank][number][name] for name in ("out", "q", "k", "v", "sinks")}
            bound = BOUNDS[case["dtype"]]
            assert errors.pop("sinks") < 20 * bound, case  # a sum over 192 queries
            assert max(errors.values()) < bound, (case, rank, errors)


@pytest.mark.parametrize("world", WORLDS)
def test_models_have_the_loss_and_every_gradient(ranks: Run, world: int) -> None:
    """Against transformers' eager attention; norms are float32 in float64, too.

    Its class does not keep documents apart.
    """
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "kv_heads": 2, "dtype": dtype, "config": GPT_OSS}
        for layout, per_node in LAYOUTS[world]
        for dtype in ("float64", "float32")
        if fits(layout, per_node, 2) and 4 % per_node == 0
    ][:: 3 if world == 2 else 1]
    bounds = {"float64": (1e-6, 1e-5), "float32": (1e-5, 5e-4)}  # a router's gradient is a small difference
    check_losses(cases, ranks(world, "model", cases=cases)[0], bounds)


@pytest.fixture(scope="session")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gpt-oss of three layers in float32."""
    return save_three_layers(tmp_path_factory.mktemp("gpt_oss"), **GPT_OSS)


@pytest.mark.parametrize("world", WORLDS)
def test_the_engine_has_every_gradient_of_one_process(ranks: Run, gpt_oss: Path, world: int) -> None:
    """FSDP and the ring; sinks are parameters like others. A router's gradient is a small difference."""
    cases: list[dict[str, Any]] = [
        {"recipe": {"activation_checkpointing": "selective"}, "shape": (3, 89), "starts": None}
        | {"layout": layout, "per_node": per_node, "context": context, "rows": rows}
        for layout, per_node, context, rows in PLACES[world]
        if fits(layout, per_node, 2)
    ][:: 2 if world == 2 else 1]
    for case, result in zip(cases, ranks(world, "gradients", base=str(gpt_oss), cases=cases)[0], strict=True):
        assert result["counts"], (case, result)
        assert result["loss"] < 2e-6, (case, result)
        assert result["gradient"] < 5e-4, (case, result)
        assert result["norm"] < 1e-5, (case, result)
