"""What the ranks of a test compute: jobs of `run_job.py`, compared with one process."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from contextgraft.attention.kernels import KERNELS
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.data.document_starts import restarting_positions
from contextgraft.training.data.skipping import skipping_positions
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.loss import CausalLMWithLoss
from contextgraft.training.parallel import attention as ring_attention
from contextgraft.training.parallel import ring
from contextgraft.training.parallel.communication import ContextParallel, context_mesh, context_parallel
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.layout import LAYOUTS, topology
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo
from contextgraft.training.parallel.shard_batch import shard_batch

TIMEOUT = timedelta(minutes=5)
LENGTH, HEAD = 96, 16
RECIPE = {
    "name": "gradients",
    "stages": [{"length": LENGTH, "steps": 1, "tokens": LENGTH}],
    "data": [{"kind": "repeat"}],
    "optimiser": {"learning_rate": 1e-3},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# a process group of gloo has threads of its own, which wake a hundred times a second until the process ends
mesh_of = cache(context_mesh)


def peers(name: str, per_node: int, heads: int, kv_heads: int, kernel: str = "cpu") -> ContextParallel:
    layout = LAYOUTS[name](topology(dist.get_world_size(), per_node), heads, kv_heads)
    mesh = mesh_of(layout, replicas=1, device="cpu", timeout=TIMEOUT)
    return context_parallel(layout, mesh, KERNELS[kernel], ranks_per_node=per_node, timeout=TIMEOUT)


def attention(cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Largest error of the output and the gradients against one process in float64."""
    return [_attention(**case) for case in cases]


def _attention(
    *,
    layout: str,
    per_node: int,
    heads: int,
    kv_heads: int,
    dtype: str,
    kernel: str,
    window: int | None = None,
    starts: list[list[int]] | None = None,
    softcap: float | None = None,
    sinks: bool = False,
) -> dict[str, float]:
    cp = peers(layout, per_node, heads, kv_heads, kernel)
    cp = replace(cp, starts=None if starts is None else tuple(map(tuple, starts)))
    generator = torch.Generator().manual_seed(0)
    whole = [
        torch.randn(2, h, LENGTH, HEAD, generator=generator).to(DTYPES[dtype])
        for h in (heads, kv_heads, kv_heads, heads)
    ]
    held = cp.positions(LENGTH)
    q, k, v = (x[:, :, held].clone().requires_grad_() for x in whole[:3])
    of_heads = torch.randn(heads, generator=generator).to(DTYPES[dtype])
    own_sinks = of_heads.clone().requires_grad_() if sinks else None
    out = ring.attention(q, k, v, cp, HEAD**-0.5, window=window, softcap=softcap, sinks=own_sinks)
    torch.autograd.backward(out, whole[3][:, :, held])
    q_ref, k_ref, v_ref = (x.double().requires_grad_() for x in whole[:3])
    group = heads // kv_heads
    scores = q_ref @ k_ref.repeat_interleave(group, 1).mT * HEAD**-0.5
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    hidden = ~_mask(window, starts)
    sinks_ref = of_heads.double().requires_grad_()
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks:
        scores = torch.cat([scores, sinks_ref[:, None, None].expand(2, heads, LENGTH, 1)], dim=-1)
    ref = scores.softmax(-1)[..., :LENGTH] @ v_ref.repeat_interleave(group, 1)
    torch.autograd.backward(ref, whole[3].double())
    errors = {"out": (out - ref[:, :, held]).abs().max().item()}
    for name, mine, theirs in (("q", q, q_ref), ("k", k, k_ref), ("v", v, v_ref)):
        assert mine.grad is not None
        assert theirs.grad is not None
        errors[name] = (mine.grad - theirs.grad[:, :, held]).abs().max().item()
    if own_sinks is not None and own_sinks.grad is not None and sinks_ref.grad is not None:
        dist.all_reduce(own_sinks.grad)
        errors["sinks"] = (own_sinks.grad - sinks_ref.grad).abs().max().item()
    return errors | {"inside": cp.traffic.within_nodes, "between": cp.traffic.between_nodes}


def _mask(window: int | None, starts: list[list[int]] | None) -> torch.Tensor:
    """Which keys each query sees (rows, 1, queries, keys), from the definitions."""
    positions = torch.arange(LENGTH)
    ages = positions[:, None] - positions
    document = torch.stack(
        [torch.bucketize(positions, torch.tensor(row), right=True) for row in starts or [[0]]]
    )
    same = document[:, None, :, None] == document[:, None, None]
    return same & (ages >= 0) & (ages < (window or LENGTH))


def model(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss and gradients of a model of three layers, against the same model in one process."""
    return [_model(**case) for case in cases]


def _model(
    *,
    layout: str,
    per_node: int,
    kv_heads: int,
    dtype: str,
    checkpointing: bool = False,
    config: dict[str, Any] | None = None,
    starts: list[list[int]] | None = None,
) -> dict[str, Any]:
    heads = 4
    cp = peers(layout, per_node, heads, kv_heads)
    reference, mine = (_built(name, kv_heads, DTYPES[dtype], config) for name in (None, ring_attention.NAME))
    if checkpointing:
        mine.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = TokenBatch(ids, torch.ones(ids.shape))
    if starts is not None:
        begins = tuple(map(tuple, starts))
        batch = batch._replace(positions=restarting_positions(begins, LENGTH), starts=begins)
    logits = reference(input_ids=ids, position_ids=batch.positions, use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.autograd.backward(expected)
    shard = shard_batch(batch, cp, replica=0, replicas=1)
    cp = replace(cp, starts=shard.starts)
    loss, _ = CausalLMWithLoss(mine)(shard.tokens, position_ids=shard.positions, context_parallel=cp)
    torch.autograd.backward(loss)
    total = loss.detach().clone()
    dist.all_reduce(total)
    worst, where = 0.0, ""
    for (name, p), r in zip(mine.named_parameters(), reference.parameters(), strict=True):
        dist.all_reduce(p.grad)
        error = ((p.grad - r.grad).norm() / r.grad.norm()).item()
        worst, where = max((worst, where), (error, name))
    return {"loss": abs(total - expected).item(), "gradient": worst, "where": where}


def _built(
    implementation: str | None, kv_heads: int, dtype: torch.dtype, config: dict[str, Any] | None = None
) -> Any:
    """A small model; without an implementation of attention, transformers chooses: sdpa, or eager."""
    from transformers import AutoConfig, AutoModelForCausalLM

    ring_attention.register()
    torch.manual_seed(0)
    small = {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": 16,
        "max_position_embeddings": 32,
        "pad_token_id": None,
    }
    built = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**small | (config or {})), attn_implementation=implementation
    )
    return built.to(dtype).train()


def gradients(base: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a step of the engine leaves in every parameter that moves, against one process."""
    return [_gradients(open_model(Path(base)), **case) for case in cases]


def _gradients(
    base: ModelFolder,
    *,
    recipe: dict[str, Any],
    layout: str,
    per_node: int,
    context: int,
    rows: int | None,
    shape: tuple[int, int],
    dtype: str = "float32",
    target: int | None = None,
    starts: list[list[int]] | None = None,
    replicate: int = 1,
    once: bool = False,
) -> dict[str, Any]:
    kind = DTYPES[dtype]
    options = ParallelOptions(context, layout, per_node, kind, rows, replicate, once, timeout=TIMEOUT)
    distributed = _engine(
        options, per_node, base.config["num_attention_heads"], base.config["num_key_value_heads"]
    )
    rope = replace(settings.read(base.config), theta=5e5, max_positions=LENGTH)
    wanted = Recipe.model_validate(RECIPE | recipe)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, base.config["vocab_size"], shape, generator=generator)
    batch = TokenBatch(ids, torch.rand(ids.shape, generator=generator).round(decimals=1))
    if target is not None:
        rng = np.random.default_rng(1)
        skipping = [skipping_positions(rng, shape[1], target, 3) for _ in range(shape[0])]
        batch = batch._replace(positions=torch.from_numpy(np.stack(skipping)))
    if starts is not None:
        begins = tuple(map(tuple, starts))
        batch = batch._replace(positions=restarting_positions(begins, shape[1]), starts=begins)
    forward = Mock(wraps=KERNELS["cpu"].forward)
    distributed.cp = replace(distributed.cp, kernel=replace(KERNELS["cpu"], forward=forward))
    results = []
    for each, compiled in ((distributed, wanted.compile), (SingleProcessEngine(), False)):
        state = each.build(wanted.model_copy(update={"compile": compiled}), base, rope)
        _draw_second_factors(state.parameters)
        with (
            patch.object(dist, "reduce_scatter_single", wraps=dist.reduce_scatter_single) as over_shards,
            patch.object(dist, "all_reduce", wraps=dist.all_reduce) as over_replicas,
        ):
            result = each.backward(state, batch, wanted)
            sums = over_shards.call_count, over_replicas.call_count
        gradients_by_name = {name: _whole(parameter.grad) for name, parameter in state.parameters.items()}
        results.append((result, gradients_by_name, each.clip(state, 1.0), sums))
    (mine, gradient, norm, sums), (single, reference, expected, _) = results
    assert gradient.keys() == reference.keys()
    assert all(value.norm() > 0 for value in reference.values())
    worst, where = max(
        (((gradient[name] - value).norm() / value.norm()).item(), name) for name, value in reference.items()
    )
    return {
        "loss": abs(mine.loss / single.loss - 1),
        "counts": [mine.correct, mine.answers] == [single.correct, single.answers],
        "gradient": worst,
        "where": where,
        "norm": abs(norm / expected - 1),
        "tensors": len(reference),
        "calls": forward.call_count,
        "bytes": mine.bytes_within_nodes + mine.bytes_between_nodes,
        "sums_over_shards": sums[0],
        "sums_over_replicas": sums[1] - 1,  # the engine sums losses and counts
    }


@cache
def _engine(options: ParallelOptions, per_node: int, heads: int, kv_heads: int) -> DistributedEngine:
    """The engine of several cases: each has six process groups."""
    launch = RankInfo(dist.get_rank(), dist.get_world_size(), dist.get_rank() % per_node, per_node)
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": heads * HEAD}
    return DistributedEngine(launch, torch.device("cpu"), options, config)


def _draw_second_factors(moving: Mapping[str, torch.nn.Parameter]) -> None:
    """LoRA's second factors begin as 0, with which the first have no gradient."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in moving.items():
        if ".lora_B." in name:
            drawn = torch.randn(parameter.shape, generator=generator) / 10
            with torch.no_grad():
                if isinstance(parameter, DTensor):
                    parameter.copy_(distribute_tensor(drawn, parameter.device_mesh, parameter.placements))
                else:
                    parameter.copy_(drawn)


def _whole(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone()


def refusals() -> dict[str, str]:
    """What each wrong call of a model with the ring says."""
    cp = peers("flat", dist.get_world_size(), 4, 4)
    mine = _built(ring_attention.NAME, 4, torch.float32)
    held = cp.positions(LENGTH)
    good: dict[str, Any] = {
        "input_ids": torch.zeros(1, len(held), dtype=torch.int64),
        "position_ids": held[None],
        "use_cache": False,
        "context_parallel": cp,
    }
    wrong: dict[str, dict[str, Any]] = {
        "no peers": {"context_parallel": None},
        "no positions": {"position_ids": None},
        "packed": {"position_ids": held[None] % (LENGTH // 2)},
        "padding": {"attention_mask": torch.ones(1, len(held)).tril()},
        "window": {"sliding_window": 8},
        "other documents": {"context_parallel": replace(cp, starts=((0, 5),))},
        "not increasing": {
            "position_ids": held[None] + 9 - held[None] // 9,
            "context_parallel": replace(cp, skipping=True),
        },
    }
    said = {}
    for name, change in wrong.items():
        try:
            mine(**{**good, **change})
        except InputError as error:
            said[name] = str(error)
    mine(**good, attention_mask=torch.ones(1, len(held)))
    return said
