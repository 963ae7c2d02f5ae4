"""What a recipe costs on a cluster, by arithmetic alone: operations, memory a rank, bytes between nodes.

Conventions: a multiplication and an addition are two operations; attention is causal, half of the square.
Only the large terms are counted. docs/training.md derives the formulas and says what was measured of them.
"""

from dataclasses import dataclass

from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.planning.model_shape import Shape
from contextgraft.planning.slurm import prefill
from contextgraft.training.micro_batch import tokens_at_once
from contextgraft.training.parallel.layout import LAYOUTS, Layout, Topology, choose, topology
from contextgraft.training.schedule import Step, steps

SUM = 4  # bytes of a weight, a gradient, a moment and of the gradients that travel: float32
LOGITS = 16  # bytes of a vocabulary entry for each token: as computed, picked, exponentiated, its gradient


@dataclass(frozen=True)
class Cluster:
    """Ranks, each a device of `flops` operations a second at best and `memory` bytes.

    A node has `links` of `link` bytes a second to other nodes; its ranks share them evenly.
    """

    ranks: int
    ranks_per_node: int
    flops: float
    utilisation: float
    memory: float
    link: float
    links: int = 1


@dataclass(frozen=True)
class Division:
    """How ranks divide the work: as `train` is told. `size`: bytes of an activation."""

    context: int
    layout: str | None = None
    rows: int | None = None
    size: int = 2


@dataclass(frozen=True)
class Memory:
    """Bytes a rank holds at most, by what they are for."""

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    logits: float
    ring: float

    @property
    def all(self) -> float:
        """The sum."""
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class Crossing:
    """What a layout of the ring sends out of each node in a stage, and over its busiest link."""

    node: float
    link: float


@dataclass(frozen=True)
class Cost:
    """One stage. `flops` are those of the model, `computed` with what is recomputed, all ranks together.

    `busy`: part of the ranks that have rows. `between`: by layout, without those that do not fit. `weights`:
    bytes of weights and gradients that FSDP sends out of a node.
    """

    steps: int
    tokens: int
    flops: float
    computed: float
    busy: float
    memory: Memory
    layout: str
    between: dict[str, Crossing]
    weights: float
    published: float | None

    def hours(self, cluster: Cluster) -> float:
        """Device hours of computing alone, idle ranks included."""
        return self.computed / self.busy / (cluster.flops * cluster.utilisation) / 3600

    def link_hours(self, cluster: Cluster, layout: str) -> float:
        """Hours for which the busiest link is busy: keys, values and their gradients, then weights."""
        return (self.between[layout].link + self.weights / cluster.links) / cluster.link / 3600


def costs(recipe: Recipe, shape: Shape, cluster: Cluster, division: Division) -> list[Cost]:
    """Costs of each stage; ranks that do not divide raise InputError."""
    if cluster.ranks % division.context:
        raise InputError(
            "the ranks of a sequence must divide all ranks",
            expected=f"a divisor of {cluster.ranks}",
            received=division.context,
        )
    plans = [[step for step in steps(recipe) if step.stage == stage] for stage in range(len(recipe.stages))]
    return [_stage(recipe, plan, shape, cluster, division) for plan in plans]


def _stage(recipe: Recipe, plan: list[Step], shape: Shape, cluster: Cluster, division: Division) -> Cost:
    replicas = cluster.ranks // division.context
    ring = topology(division.context, cluster.ranks_per_node)
    layout = _layout(ring, shape, division)
    kept = recipe.activation_checkpointing
    flops = {step: step.rows * step_flops(recipe, shape, step.length) for step in plan}
    turns = {step: -(-step.rows // replicas) for step in plan}  # rows of the busiest replica
    passes = sum(-(-turns[step] // (division.rows or step.rows)) for step in plan)
    exchanged = sum(turns[step] * kv_bytes(shape, step.length, division.size, again=kept) for step in plan)
    published = recipe.stages[plan[0].stage].published
    return Cost(
        steps=len(plan),
        tokens=sum(step.rows * step.length for step in plan),
        flops=sum(flops.values()),
        computed=sum(flops[step] + kept * step.rows * prefill(shape, step.length) for step in plan),
        busy=sum(flops.values()) / sum(flops[step] * turns[step] * replicas / step.rows for step in plan),
        memory=memory(recipe, shape, cluster, division, plan),
        layout=layout.name,
        between={name: crossing(name, ring, exchanged, cluster.links) for name in _fitting(ring, shape)},
        weights=passes * weights_between(recipe, shape, cluster, division.size),
        published=None if published is None else published.gpus * published.minutes / 60,
    )


def step_flops(recipe: Recipe, shape: Shape, length: int) -> float:
    """Operations of one sequence: forward, and back for twice as much; frozen weights need no gradient."""
    forward = prefill(shape, length)
    linear = 2.0 * shape.parameters * length
    return 3 * forward - (linear if recipe.lora else 0.0)


def kv_bytes(shape: Shape, length: int, size: int, *, again: bool) -> float:
    """Bytes of one sequence that visit every rank of its ring, in a step.

    Keys and values go round forward, again when activations are recomputed, and backward; their gradients
    follow once, in float32.
    """
    entries = 2.0 * length * shape.layers * shape.kv_heads * shape.head
    return entries * (size * (2 + again) + SUM)


def crossing(layout: str, ring: Topology, exchanged: float, links: int) -> Crossing:
    """Bytes out of each node, and over its busiest link, of what visits every rank.

    A flat ring leaves a node by one rank; layered ones by all of its ranks alike.
    """
    if ring.nodes == 1:
        return Crossing(0.0, 0.0)
    if layout == "flat":
        out = exchanged * (ring.ranks - 1) / ring.ranks
        return Crossing(out, out)
    out = exchanged * (ring.nodes - 1) / ring.nodes
    return Crossing(out, out / min(links, ring.per_node))


def weights_between(recipe: Recipe, shape: Shape, cluster: Cluster, size: int) -> float:
    """Bytes that FSDP sends out of a node in one pass: weights gathered twice, gradients summed once."""
    if cluster.ranks <= cluster.ranks_per_node:
        return 0.0
    once = (cluster.ranks - 1) / cluster.ranks
    return once * (2 * size * shape.parameters + SUM * moving(recipe, shape))


def moving(recipe: Recipe, shape: Shape) -> int:
    """How many numbers the optimiser moves."""
    norms = (2 * shape.layers + 1) * shape.hidden
    linear = shape.matrices if recipe.lora is None else recipe.lora.rank * _lora_sides(shape)
    sizes = {"linear": linear, "norms": norms, "embeddings": shape.parameters - shape.matrices - norms}
    return sum(sizes[group] for group in recipe.trainable)


def memory(recipe: Recipe, shape: Shape, cluster: Cluster, division: Division, plan: list[Step]) -> Memory:
    """Bytes of the rank that holds most, in the step that holds most."""
    learnt, size = moving(recipe, shape), division.size
    extra = recipe.lora.rank * _lora_sides(shape) if recipe.lora else 0
    layer = shape.matrices // shape.layers + 2 * shape.hidden
    root = shape.parameters - shape.layers * layer
    replicas = cluster.ranks // division.context
    held = (
        max(min(division.rows or step.rows, -(-step.rows // replicas)) * step.length for step in plan)
        / division.context
    )  # tokens
    block = 12 * shape.hidden + 3 * shape.intermediate
    blocks = block + shape.layers * shape.hidden if recipe.activation_checkpointing else block * shape.layers
    return Memory(
        weights=SUM * (shape.parameters + extra) / cluster.ranks,
        gradients=SUM * learnt / cluster.ranks,
        moments=2 * SUM * learnt / cluster.ranks,
        gathered=float(size * (2 * layer + root + max(layer, root))),
        activations=held * size * blocks,
        logits=_logits(recipe, shape, held),
        ring=held * 2 * shape.kv_heads * shape.head * 4 * (size + SUM),
    )


def _logits(recipe: Recipe, shape: Shape, held: float) -> float:
    """Bytes of the logits of one piece, and of the sum of all pieces' gradients of the output weights."""
    piece = tokens_at_once(shape.vocabulary)
    summed = SUM * shape.vocabulary * shape.hidden if "embeddings" in recipe.trainable else 0
    return min(held, piece) * LOGITS * shape.vocabulary + (summed if held > piece else 0)


def _lora_sides(shape: Shape) -> int:
    attention = 4 * shape.hidden + 2 * (shape.heads + shape.kv_heads) * shape.head
    return shape.layers * (attention + 3 * (shape.hidden + shape.intermediate))


def _layout(ring: Topology, shape: Shape, division: Division) -> Layout:
    if division.layout is None:
        return choose(ring, shape.heads, shape.kv_heads)[0]
    return LAYOUTS[division.layout](ring, shape.heads, shape.kv_heads)


def _fitting(ring: Topology, shape: Shape) -> list[str]:
    """Layouts that this ring can have."""
    divided = shape.heads % ring.per_node == 0 and shape.kv_heads % ring.per_node == 0
    return ["flat", "double", "usp"] if divided else ["flat", "double"]
