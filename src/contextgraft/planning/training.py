"""What a training recipe costs: operations, memory of a rank, bytes between nodes. By arithmetic alone.

Attention is causal, half of the square; only the large terms are counted. docs/training.md derives the
formulas and says what was measured of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.planning.flops import training_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.memory import kv_entries
from contextgraft.planning.shapes.config_values import BYTES
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.planning.training_memory import (
    RankMemory,
    offloaded_activations,
    offloaded_moments,
    rank_memory,
    trained_parameters,
)
from contextgraft.training.parallel.layout import LAYOUTS, Layout, Topology, choose_layout, topology
from contextgraft.training.schedule import TrainingStep, training_steps

SUM = 4  # bytes of a gradient that travels between ranks: float32


@dataclass(frozen=True)
class ParallelPlan:
    """How the work is divided, as the options of `train` say it.

    `context` ranks share a sequence, with the given `layout` or the best one; `rows` of a batch are computed
    at once, all of them by default. `dtype` is that of activations. Each of the `weight_replicas` holds all
    weights (HSDP). With `sync_gradients_once` gradients are summed once a step, not in every pass.
    """

    ranks: int
    context: int
    layout: str | None = None
    rows: int | None = None
    dtype: str = "bfloat16"
    weight_replicas: int = 1
    sync_gradients_once: bool = False

    @property
    def activation_bytes(self) -> int:
        """Bytes of one element of an activation, by its dtype."""
        return BYTES[self.dtype]

    @property
    def shard_ranks(self) -> int:
        """Ranks that share one copy of weights, gradients and moments."""
        return self.ranks // self.weight_replicas

    @property
    def replicas(self) -> int:
        """Groups of ranks that work on sequences of their own."""
        return self.ranks // self.context


@dataclass(frozen=True)
class NodeTraffic:
    """Bytes that a layout of the ring sends out of each node in a stage, and over its busiest link."""

    node: float
    link: float


@dataclass(frozen=True)
class StageCost:
    """Costs of one stage, of all ranks together.

    `flops` are the operations of the model, `computed` also those of recomputed activations. `busy` is the
    share of the ranks that have rows to work on. `host` are bytes of a rank in main memory: activations and
    moments that are offloaded. `between` is the traffic by layout, without layouts that do not fit, `weights`
    the bytes of weights and gradients that FSDP sends out of a node. `published` are the device hours that
    the recipe's authors published.
    """

    steps: int
    tokens: int
    flops: float
    computed: float
    busy: float
    memory: RankMemory
    host: float
    layout: str
    between: Mapping[str, NodeTraffic]
    weights: float
    published: float | None

    def device_hours(self, hardware: Hardware) -> float:
        """Device hours of computing alone, idle ranks included."""
        return hardware.compute_hours(self.computed / self.busy)

    def link_hours(self, hardware: Hardware, layout: str) -> float:
        """Hours for which the busiest link is busy: keys, values and their gradients, then weights."""
        sent = self.between[layout].link + self.weights / hardware.links
        return sent / hardware.link_bandwidth / 3600


def stage_costs(recipe: Recipe, shape: ModelShape, hardware: Hardware, plan: ParallelPlan) -> list[StageCost]:
    """Costs of each stage; InputError if the ranks of a sequence do not divide all ranks."""
    if plan.ranks % plan.context:
        raise InputError(
            "the ranks of a sequence must divide all ranks",
            expected=f"a divisor of {plan.ranks}",
            received=plan.context,
        )
    if plan.ranks % plan.weight_replicas:
        raise InputError(
            "the replicas of the weights must divide all ranks",
            expected=f"a divisor of {plan.ranks}",
            received=plan.weight_replicas,
        )
    every = training_steps(recipe)
    return [
        _stage_cost(recipe, [step for step in every if step.stage == stage], shape, hardware, plan)
        for stage in range(len(recipe.stages))
    ]


def _stage_cost(
    recipe: Recipe, stage_steps: list[TrainingStep], shape: ModelShape, hardware: Hardware, plan: ParallelPlan
) -> StageCost:
    ring = topology(plan.context, hardware.node_size)
    kept = recipe.activation_checkpointing is True
    frozen = recipe.lora is not None
    flops = {
        step: step.rows * training_flops(shape, step.length, frozen_weights=frozen, recompute=False)
        for step in stage_steps
    }
    turns = {step: -(-step.rows // plan.replicas) for step in stage_steps}  # rows of the busiest replica
    held = max(min(plan.rows or step.rows, turns[step]) * step.length for step in stage_steps) / plan.context
    pairs = max(min(plan.rows or step.rows, turns[step]) * step.length**2 for step in stage_steps)
    passes = [-(-turns[step] // (plan.rows or step.rows)) for step in stage_steps]
    exchanged = sum(
        turns[step] * ring_bytes(shape, step.length, plan.activation_bytes, recompute=kept)
        for step in stage_steps
    )
    published = recipe.stages[stage_steps[0].stage].published
    total = sum(flops.values())
    return StageCost(
        steps=len(stage_steps),
        tokens=sum(step.rows * step.length for step in stage_steps),
        flops=total,
        computed=executed_flops(recipe, shape, stage_steps),
        busy=total / sum(flops[step] * turns[step] * plan.replicas / step.rows for step in stage_steps),
        memory=rank_memory(
            recipe,
            shape,
            plan.shard_ranks,
            held,
            plan.activation_bytes,
            whole_gradients=plan.sync_gradients_once and max(passes) > 1,
            pairs=pairs if shape.eager and plan.ranks == 1 else 0,
        ),
        host=held * offloaded_activations(recipe, shape, plan.activation_bytes, plan.ranks)
        + offloaded_moments(recipe, shape, plan.shard_ranks),
        layout=_layout(ring, shape, plan).name,
        between={name: ring_traffic(name, ring, exchanged, hardware.links) for name in _fitting(ring, shape)},
        weights=weight_traffic(recipe, shape, hardware, plan, steps=len(passes), passes=sum(passes)),
        published=None if published is None else published.gpus * published.minutes / 60,
    )


def memory_remedies(recipe: Recipe, plan: ParallelPlan) -> list[str]:
    """What would make a rank need less memory, without what the recipe and the plan have already."""
    remedies = {
        "activation_checkpointing": not recipe.activation_checkpointing,
        "--rows-at-once 1": plan.rows != 1,
        "no --sync-gradients-once": plan.sync_gradients_once,
        "mlp_tiles in the recipe": recipe.mlp_tiles == 1,
        "activation_offloading": not recipe.activation_offloading,
        "optimiser.offload in the recipe": not recipe.optimiser.offload,
        "more ranks for a sequence": plan.context == plan.ranks,
        "--context-parallel with more ranks": plan.context < plan.ranks,
    }
    return [remedy for remedy, helps in remedies.items() if helps]


def executed_flops(recipe: Recipe, shape: ModelShape, some: Sequence[TrainingStep]) -> int:
    """Operations of some steps as they are executed, recomputed activations included."""
    frozen, recompute = recipe.lora is not None, recipe.activation_checkpointing
    return sum(
        step.rows * training_flops(shape, step.length, frozen_weights=frozen, recompute=recompute)
        for step in some
    )


def ring_bytes(shape: ModelShape, length: int, size: int, *, recompute: bool) -> float:
    """Bytes of one sequence that visit every rank of its ring in a step.

    Keys and values, of `size` bytes each, go round in the forward pass, again when activations are
    recomputed, and in the backward pass; their gradients follow once, in float32.
    """
    return float(length * kv_entries(shape)) * (size * (2 + recompute) + SUM)


def ring_traffic(layout: str, ring: Topology, exchanged: float, links: int) -> NodeTraffic:
    """Bytes out of each node, and over its busiest link, of what visits every rank.

    A flat ring leaves a node by one rank; layered ones by all of its ranks alike.
    """
    if ring.nodes == 1:
        return NodeTraffic(0.0, 0.0)
    if layout == "flat":
        out = exchanged * (ring.ranks - 1) / ring.ranks
        return NodeTraffic(out, out)
    out = exchanged * (ring.nodes - 1) / ring.nodes
    return NodeTraffic(out, out / min(links, ring.per_node))


def weight_traffic(
    recipe: Recipe,
    shape: ModelShape,
    hardware: Hardware,
    plan: ParallelPlan,
    *,
    steps: int = 1,
    passes: int = 1,
) -> float:
    """Bytes that FSDP sends out of a node in some steps, which have so many passes in all.

    In each pass weights are gathered twice and gradients summed once, if not once a step. Between replicas
    the gradients of a node's shards are summed once a step by an all-reduce, which sends them twice.
    """
    if plan.ranks <= hardware.node_size:
        return 0.0
    shards, replicas, gradients = (
        plan.shard_ranks,
        plan.weight_replicas,
        SUM * trained_parameters(recipe, shape),
    )
    held = min(1.0, hardware.node_size / shards)  # of a copy of the weights, by the ranks of a node
    between_replicas = steps * 2 * (replicas - 1) / replicas * gradients * held
    gathered = passes * 2 * plan.activation_bytes * shape.parameters
    summed = (steps if plan.sync_gradients_once else passes) * gradients
    sharded = (shards - 1) / shards * (gathered + summed)
    return _leaving(plan, hardware.node_size) * sharded + between_replicas


def _leaving(plan: ParallelPlan, node_size: int) -> int:
    """How many copies of the weights lie partly on one node and partly on others, at most."""
    shards, most = plan.shard_ranks, 0
    for start in range(0, plan.ranks, node_size)[:shards]:  # then they lie as on these nodes
        stop = min(start + node_size, plan.ranks)
        touched = range(start // shards, -(-stop // shards))
        most = max(most, sum(n * shards < start or (n + 1) * shards > stop for n in touched))
    return most


def _layout(ring: Topology, shape: ModelShape, plan: ParallelPlan) -> Layout:
    if plan.layout is None:
        return choose_layout(ring, shape.heads, shape.kv_heads)[0]
    return LAYOUTS[plan.layout](ring, shape.heads, shape.kv_heads)


def _fitting(ring: Topology, shape: ModelShape) -> list[str]:
    """Layouts that this ring can have."""
    divided = shape.heads % ring.per_node == 0 and shape.kv_heads % ring.per_node == 0
    return ["flat", "double", "usp"] if divided else ["flat", "double"]


def to_json(hardware: Hardware, plan: ParallelPlan, costs: Sequence[StageCost]) -> dict[str, Any]:
    """Hardware, division, stages and their sum as plain JSON values."""
    stages = [
        asdict(cost)
        | {"device_hours": cost.device_hours(hardware), "memory_bytes": cost.memory.total}
        | {"link_hours": {name: cost.link_hours(hardware, name) for name in cost.between}}
        for cost in costs
    ]
    summed = ("steps", "tokens", "flops", "computed", "device_hours", "weights")
    whole: dict[str, Any] = {name: sum(stage[name] for stage in stages) for name in summed}
    whole["memory_bytes"] = max(stage["memory_bytes"] for stage in stages)
    return {
        "cluster": {
            "ranks": plan.ranks,
            "ranks_per_node": hardware.node_size,
            "flops": hardware.flops,
            "utilisation": hardware.utilisation,
            "memory": hardware.memory,
            "link": hardware.link_bandwidth,
            "links": hardware.links,
        },
        "division": {
            "context": plan.context,
            "layout": plan.layout,
            "rows": plan.rows,
            "size": plan.activation_bytes,
        },
        "stages": stages,
        "all": whole,
    }
