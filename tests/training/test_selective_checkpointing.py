"""Recomputed layers that keep their attention, in one process."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.rope import settings
from contextgraft.training.activations.selective_checkpointing import KeptAttention
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine

from .conftest import write_recipe

IDS = torch.randint(0, 20, (2, 37), generator=torch.Generator().manual_seed(0))


class Operators(TorchDispatchMode):
    """Counts calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def step(
    base: Path, recipe_folder: Path, dtype: torch.dtype, **changes: Any
) -> tuple[float, dict[str, torch.Tensor], Counter[str]]:
    """Loss and gradients of a batch, and the operators that were called."""
    recipe = load_recipe(write_recipe(recipe_folder, **changes))
    engine, model = SingleProcessEngine(dtype=dtype), open_model(base)
    state = engine.build(recipe, model, settings.read(model.config))
    with Operators() as operators:
        result = engine.backward(state, TokenBatch(IDS, torch.ones(IDS.shape)), recipe)
    gradients = {name: p.grad for name, p in state.parameters.items() if p.grad is not None}
    return result.loss, gradients, operators.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"mlp_tiles": 3}, {"lora": {"rank": 2, "alpha": 2}}], ids=str)
def test_gradients_are_the_same_and_attention_runs_once(
    base: Path, recipe_folder: Path, dtype: torch.dtype, changes: dict[str, Any]
) -> None:
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    loss, expected, calls = step(base, recipe_folder, dtype, **changes)
    for mode, passes in ((True, 2), ("selective", 1)):
        mine = step(base, recipe_folder, dtype, activation_checkpointing=mode, **changes)
        assert mine[0] == loss
        assert mine[1].keys() == expected.keys()
        for name, gradient in mine[1].items():
            assert torch.equal(gradient, expected[name]), name
        assert mine[2][attention] == passes * calls[attention] == passes * 2  # layers
        assert mine[2]["mm"] > calls["mm"]  # products of matrices are recomputed


def test_each_layer_takes_its_own_results() -> None:
    """Results of one layer are not those of another, nor of a second call in the same layer."""
    kept, computed = KeptAttention(), []

    def layer(x: torch.Tensor) -> torch.Tensor:
        for factor in (2.0, 3.0):
            (result,) = kept.results(lambda: compute(x, factor))  # noqa: B023 - called at once
            x = x * result
        return x

    def compute(x: torch.Tensor, factor: float) -> tuple[torch.Tensor]:
        computed.append(factor)
        return (x.detach() * 0 + factor,)

    x = torch.ones(2, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=False, context_fn=kept.contexts)
    y = checkpoint(layer, y * 5, use_reentrant=False, context_fn=kept.contexts)
    torch.autograd.backward(y.sum())
    assert computed == [2.0, 3.0, 2.0, 3.0]
    assert x.grad is not None
    assert x.grad.tolist() == [180.0, 180.0]
    assert kept.results(lambda: compute(x, 1.0))[0].tolist() == [1.0, 1.0]
