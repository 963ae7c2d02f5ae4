"""Sliding windows and documents that do not see each other, in the ring, against one process."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .test_exact import BOUNDS, LAYOUTS, PLACES, fits, small

__all__ = ["small"]  # a fixture

STARTS = [[0, 1, 40, 41, 47, 90], [0, 33]]  # of two rows of 96 tokens; 33 divides no chunk
LIMITS: list[dict[str, Any]] = [
    {"window": 7},
    {"starts": STARTS},
    {"window": 30, "starts": STARTS},
    {"window": 1},
    {"window": 95},
]
WORLDS = [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
WINDOWS: dict[str, dict[str, Any]] = {
    "all layers": {"model_type": "mistral", "sliding_window": 11},
    "some layers": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1,
    },
    "some layers, with RoPE of their own": {
        "model_type": "gemma3_text", "sliding_window": 9, "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}  # fmt: skip

GRADIENT = {
    "mistral": 1e-11,
    "qwen2": 1e-11,
    "gemma3_text": 1e-6,
}  # Gemma's norms are float32 in float64, too


@pytest.mark.parametrize("world", WORLDS)
def test_attention_is_exact(ranks: Run, world: int) -> None:
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "heads": 8, "kv_heads": kv_heads, "dtype": dtype}
        | {"kernel": kernel, **limit}
        for layout, per_node in LAYOUTS[world]
        for kv_heads in (8, 2)
        for dtype, kernel in (("float64", "cpu"), ("float64", "plain"), ("float32", "cpu"))
        for limit in LIMITS
        if fits(layout, per_node, kv_heads)
    ][:: 4 if world == 2 else 1]
    found = ranks(world, "attention", cases=cases)
    for number, case in enumerate(cases):
        for rank in range(world):
            errors = {name: found[rank][number][name] for name in ("out", "q", "k", "v")}
            assert max(errors.values()) < BOUNDS[case["dtype"]], (case, rank, errors)


@pytest.mark.parametrize("world", WORLDS)
def test_models_with_windows_have_the_loss_and_every_gradient(ranks: Run, world: int) -> None:
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "kv_heads": 2, "dtype": "float64", "config": config}
        for layout, per_node in LAYOUTS[world]
        for config in WINDOWS.values()
        if fits(layout, per_node, 2) and 4 % per_node == 0
    ]
    for case, result in zip(cases, ranks(world, "model", cases=cases)[0], strict=True):
        assert result["loss"] < 1e-12, (case, result)
        assert result["gradient"] < GRADIENT[case["config"]["model_type"]], (case, result)


@pytest.mark.parametrize("world", WORLDS)
def test_the_engine_keeps_documents_apart(ranks: Run, small: tuple[Path, int], world: int) -> None:
    """Each row has other documents; rows are repeated and tokens padded to fit the ranks."""
    base, kv_heads = small
    cases: list[dict[str, Any]] = [
        {
            "recipe": {"activation_checkpointing": True},
            "shape": (3, 89),
            "starts": [[0, 1, 40, 41, 88], [0], [0, 7]],
        }
        | {"layout": layout, "per_node": per_node, "context": context, "rows": rows}
        for layout, per_node, context, rows in PLACES[world]
        if fits(layout, per_node, kv_heads)
    ]
    for case, result in zip(cases, ranks(world, "gradients", base=str(base), cases=cases)[0], strict=True):
        assert result["counts"], (case, result)
        assert result["loss"] < 2e-6, (case, result)
        assert max(result["gradient"], result["norm"]) < 1e-5, (case, result)
