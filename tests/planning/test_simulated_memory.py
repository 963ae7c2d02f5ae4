"""The plan's activations against a simulation of the code itself with fake tensors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.config.training import Recipe
from contextgraft.planning.training_memory import rank_memory
from contextgraft.training.activations.offloading import Offloading
from contextgraft.training.activations.selective_checkpointing import KeptAttention
from contextgraft.training.activations.tiled_mlp import tile_mlps

from ..training.conftest import RECIPE
from .shapes import shape_of
from .simulated_memory import NoHostMemory, Storages, peak_activations, peers

SHAPES = Path(__file__).parents[2] / "src/contextgraft/planning/shapes"
TOKENS = 2**17  # of one rank; fake tensors cost the same at any length
WIDE = {  # heads wider than the hidden size, as in Qwen3 and Gemma
    "model_type": "llama", "num_hidden_layers": 12, "hidden_size": 256, "intermediate_size": 768,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1000,
}  # fmt: skip


def shipped(name: str) -> dict[str, Any]:
    return dict(json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8")))


def check(
    config: dict[str, Any],
    ranks: int,
    dtype: str,
    *,
    recompute: Any,
    tiles: int,
    offloaded: bool = False,
    tokens: int = TOKENS,
    softcap: float | None = None,
) -> None:
    hooks = Offloading(NoHostMemory()) if offloaded else None
    kept = KeptAttention(hooks)

    def prepare(model: Any) -> None:
        if recompute:
            context_fn = kept.contexts if recompute == "selective" else None
            if hooks is not None:
                context_fn = hooks.contexts(context_fn)
            contexts = {} if context_fn is None else {"context_fn": context_fn}
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": False} | contexts)
        if tiles > 1:
            tile_mlps(model.model.layers, tiles)

    cp = replace(peers(ranks), kept=kept)
    simulated = peak_activations(
        config, tokens, cp, dtype=getattr(torch, dtype), prepare=prepare, hooks=hooks, softcap=softcap
    )
    recipe = Recipe.model_validate(
        {**RECIPE, "activation_checkpointing": recompute, "mlp_tiles": tiles}
        | {"activation_offloading": offloaded}
    )
    shape = replace(shape_of(config), capped=softcap is not None)
    memory = rank_memory(recipe, shape, ranks, tokens, {"bfloat16": 2, "float32": 4}[dtype])
    planned = memory.activations + memory.ring * (ranks > 1)
    assert planned == pytest.approx(simulated, rel=0.1), (planned, simulated)


@pytest.mark.parametrize(
    ("ranks", "dtype", "recompute", "tiles"),
    [
        (8, "bfloat16", True, 1),
        pytest.param(8, "bfloat16", "selective", 8, marks=pytest.mark.slow),
        pytest.param(8, "float32", "selective", 1, marks=pytest.mark.slow),
        pytest.param(8, "bfloat16", True, 8, marks=pytest.mark.slow),
        pytest.param(8, "float32", True, 1, marks=pytest.mark.slow),
        pytest.param(8, "float32", True, 8, marks=pytest.mark.slow),
        pytest.param(1, "bfloat16", False, 1, marks=pytest.mark.slow),
        pytest.param(1, "bfloat16", True, 64, marks=pytest.mark.slow),
    ],
)
def test_the_plan_of_8b_is_within_a_tenth(ranks: int, dtype: str, *, recompute: Any, tiles: int) -> None:
    check(shipped("llama3-8b"), ranks, dtype, recompute=recompute, tiles=tiles)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [True, "selective"])
@pytest.mark.parametrize("tiles", [1, 8])
def test_offloaded_activations_are_within_a_tenth(recompute: Any, tiles: int) -> None:
    check(shipped("llama3-8b"), 8, "bfloat16", recompute=recompute, tiles=tiles, offloaded=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", [shipped("smollm2-135m"), WIDE], ids=["135M", "wide heads"])
@pytest.mark.parametrize("tiles", [1, 8])
def test_other_shapes_are_within_a_tenth(config: dict[str, Any], tiles: int) -> None:
    check(config, 8, "bfloat16", recompute=True, tiles=tiles)


@pytest.mark.parametrize(
    ("dtype", "tokens"), [("bfloat16", 2**12), pytest.param("float32", 2**13, marks=pytest.mark.slow)]
)
def test_soft_caps_are_within_a_tenth(dtype: str, tokens: int) -> None:
    """Half of the memory and more is that of some scores; their number of operators grows with the square."""
    check(WIDE, 2, dtype, recompute=True, tiles=1, tokens=tokens, softcap=50.0)


@pytest.mark.parametrize("recompute", [True, False])
def test_eager_scores_with_a_soft_cap_are_within_a_tenth(*, recompute: bool) -> None:
    """Of transformers' Gemma 2 in one process, with so few other activations that they do not matter."""
    small = {
        "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 2, "num_hidden_layers": 3, "pad_token_id": None,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **small)).train()
    if recompute:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    with Storages() as storages:
        hidden = model.model(input_ids=torch.zeros(2, 256, dtype=torch.int64), use_cache=False)[0]
        torch.autograd.backward(hidden.sum())
    recipe = Recipe.model_validate({**RECIPE, "activation_checkpointing": recompute})
    shape = shape_of({"model_type": "gemma2", **small})
    memory = rank_memory(recipe, shape, 1, 2 * 256, 4, pairs=2 * 256**2)
    assert memory.activations == pytest.approx(storages.peak, rel=0.1)
