"""Soft caps of attention scores: kernel, ring and engine, against definitions and transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from typing_extensions import override

from contextgraft.attention.kernels import AttentionBlock, AttentionGradients, AttentionResult
from contextgraft.attention.soft_caps import soft_capped
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe
from contextgraft.rope import settings
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine

from ..conftest import RECIPE
from .conftest import Run, check_losses, save_three_layers
from .test_exact import BOUNDS, LAYOUTS, PLACES, fits
from .test_limited_attention import LIMITS, STARTS, WORLDS

CAP = 0.3  # of scores whose standard deviation is 1
# Scores of models that were not trained are small, and so are these caps. Two of three layers have a window.
GEMMA: dict[str, Any] = {
    "query_pre_attn_scalar": 16, "attn_logit_softcapping": 0.01, "final_logit_softcapping": 0.5,
    "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
ONE_RANK = {1: [("flat", 1)]}


class LargestResult(TorchDispatchMode):
    """Counts the elements of the largest result of an operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def block_of(dtype: torch.dtype, keys: int, *, causal: bool) -> tuple[AttentionBlock, torch.Tensor]:
    """A block of 6 query heads and 2 KV heads, 29 queries, and the gradient of its output."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (
        torch.randn(2, heads, length, 8, generator=generator, dtype=torch.float64).to(dtype)
        for heads, length in ((6, 29), (2, keys), (2, keys), (6, 29))
    )
    return AttentionBlock(q, k, v, causal, 0.35), dout


def by_definition(
    block: AttentionBlock, dout: torch.Tensor
) -> tuple[AttentionResult, tuple[torch.Tensor, ...]]:
    """Result and gradients in float64, by autograd."""
    q, k, v = (x.double().requires_grad_() for x in block[:3])
    scores = q @ k.repeat_interleave(3, 1).mT * block.scale
    capped = CAP * (scores / CAP).tanh()
    if block.causal:
        capped = capped.masked_fill(torch.ones(29, 29, dtype=torch.bool).triu(1), float("-inf"))
    out = capped.softmax(-1) @ v.repeat_interleave(3, 1)
    return AttentionResult(out, capped.logsumexp(-1)), torch.autograd.grad(out, [q, k, v], dout.double())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize(("keys", "causal"), [(29, True), (29, False), (17, False)])
def test_the_kernel_is_exact_and_has_few_scores_at_a_time(
    dtype: torch.dtype, bound: float, keys: int, *, causal: bool
) -> None:
    """Squares of 10 queries and 10 keys for 2 rows of 6 heads."""
    block, dout = block_of(dtype, keys, causal=causal)
    kernel, scores = soft_capped(CAP, scores=2 * 6 * 10 * 10), LargestResult()
    with scores:
        result = kernel.forward(block)
        gradients = kernel.backward(block, dout, result)
    expected, expected_gradients = by_definition(block, dout)
    for mine, reference in zip((*result, *gradients), (*expected, *expected_gradients), strict=True):
        assert mine.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(mine.double(), reference.detach(), rtol=0, atol=bound)
    assert isinstance(gradients, AttentionGradients)
    assert scores.elements == max(block.q.numel(), 2 * 6 * 10 * 10)


@pytest.mark.parametrize("world", WORLDS)
def test_attention_is_exact(ranks: Run, world: int) -> None:
    """Also with windows and documents that do not see each other."""
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "heads": 8, "kv_heads": kv_heads, "dtype": dtype}
        | {"kernel": "cpu", "softcap": CAP, **limit}
        for layout, per_node in LAYOUTS[world]
        for kv_heads in (8, 2)
        for dtype in ("float64", "float32", "bfloat16")
        for limit in ({}, *LIMITS[:3])
        if fits(layout, per_node, kv_heads)
    ][:: 5 if world == 2 else 1]
    found = ranks(world, "attention", cases=cases)
    for number, case in enumerate(cases):
        for rank in range(world):
            errors = {name: found[rank][number][name] for name in ("out", "q", "k", "v")}
            assert max(errors.values()) < BOUNDS[case["dtype"]], (case, rank, errors)


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), *WORLDS])
def test_models_have_the_loss_and_every_gradient(ranks: Run, world: int) -> None:
    """Against transformers' eager attention, whose softmax is float32 even in float64 (Gemma's norms too)."""
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "kv_heads": 2, "dtype": dtype}
        | {"config": {"model_type": kind, **GEMMA}, "starts": starts}
        for layout, per_node in (LAYOUTS | ONE_RANK)[world]
        for kind, dtype, starts in (
            ("gemma2", "float64", None),
            ("gemma2", "float64", STARTS),
            ("gemma2", "float32", STARTS),
            ("vaultgemma", "float64", None),
        )
        if fits(layout, per_node, 2) and 4 % per_node == 0
    ][:: 3 if world == 2 else 1]
    bounds = {"float64": (1e-7, 1e-6), "float32": (2e-6, 1e-5)}
    check_losses(cases, ranks(world, "model", cases=cases)[0], bounds)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 2 of three layers in float32."""
    return save_three_layers(tmp_path_factory.mktemp("gemma"), model_type="gemma2", **GEMMA)


@pytest.mark.parametrize("world", WORLDS)
def test_the_engine_has_every_gradient_of_one_process(ranks: Run, gemma: Path, world: int) -> None:
    """FSDP and the ring, layers recomputed with their attention and without, documents apart and not."""
    cases: list[dict[str, Any]] = [
        {"recipe": {"activation_checkpointing": recompute}, "shape": (3, 89), "starts": starts}
        | {"layout": layout, "per_node": per_node, "context": context, "rows": rows}
        for recompute, starts in ((True, [[0, 1, 40, 41, 88], [0], [0, 7]]), ("selective", None))
        for layout, per_node, context, rows in PLACES[world]
        if fits(layout, per_node, 2)
    ][:: 3 if world == 2 else 1]
    for case, result in zip(cases, ranks(world, "gradients", base=str(gemma), cases=cases)[0], strict=True):
        assert result["counts"], (case, result)
        assert result["loss"] < 2e-6, (case, result)
        assert max(result["gradient"], result["norm"]) < 1e-5, (case, result)


def test_one_process_computes_what_transformers_does(gemma: Path) -> None:
    """Its class takes no sdpa."""
    ids = torch.randint(0, 67, (2, 40), generator=torch.Generator().manual_seed(0))
    base, recipe = open_model(gemma), Recipe.model_validate(RECIPE)
    engine = SingleProcessEngine()
    state = engine.build(recipe, base, settings.read(base.config))
    result = engine.backward(state, TokenBatch(ids, torch.ones(ids.shape)), recipe)
    reference = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32, attn_implementation="eager")
    expected = reference(input_ids=ids, labels=ids).loss
    torch.autograd.backward(expected)
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(state.parameters[name].grad, parameter.grad, rtol=1e-4, atol=1e-7)
