"""Bytes that a rank holds while training. docs/training.md compares them with what was measured."""

from dataclasses import dataclass
from heapq import nlargest
from math import prod

from contextgraft.attention.score_limit import SCORES
from contextgraft.config.training import Recipe
from contextgraft.formats.tensor_names import output_embedding, parameter_group, rows_are_tokens
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.training.logit_chunks import logit_chunk_tokens

FLOAT32 = 4  # bytes of a weight, a gradient and a moment of the optimiser
SCORE, SCORE_KEPT = 16, 8  # bytes of a score of eager attention: while a layer is computed; kept for that
LOGITS = 16  # bytes of a vocabulary entry for each token: as computed, picked, exponentiated, its gradient


@dataclass(frozen=True)
class RankMemory:
    """Bytes a rank holds at most, by what they are for."""

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    logits: float
    ring: float

    @property
    def total(self) -> float:
        """Their sum; the peaks need not occur at the same time, so less memory may be used."""
        return float(sum(vars(self).values()))


def rank_memory(
    recipe: Recipe,
    shape: ModelShape,
    ranks: int,
    tokens: float,
    size: int,
    *,
    whole_gradients: bool = False,
    pairs: float = 0.0,
) -> RankMemory:
    """Bytes of a rank that holds `tokens` tokens at once, with activations of `size` bytes.

    Weights, gradients and moments are divided among all ranks; two layers and the embeddings are gathered.
    Weights that are not trained have the dtype of activations, in one process in linear layers only.
    Of moments that are offloaded, those of three tensors are counted, the largest: arriving, in use, leaving.
    With `whole_gradients` a rank has those of all shards until they are summed. `pairs` of a query and a key
    have scores at once where one process computes transformers' eager attention.
    """
    trained = trained_parameters(recipe, shape)
    factors = lora_parameters(shape, recipe.lora.rank) if recipe.lora else 0
    frozen = shape.parameters + factors - trained if ranks > 1 else _frozen_linear(recipe, shape)
    layer = (shape.parameters - _embeddings(shape) - shape.hidden) // shape.layers
    root = shape.parameters - shape.layers * layer
    activations, ring = _activations(recipe, shape, size, ranks, _scores(shape, tokens, pairs) / tokens)
    kept_scores = 0.0 if recipe.activation_checkpointing else pairs * shape.heads * (shape.layers - 1)
    return RankMemory(
        weights=(FLOAT32 * (shape.parameters + factors) - (FLOAT32 - size) * frozen) / ranks,
        gradients=FLOAT32 * trained / (1 if whole_gradients else ranks),
        moments=_moments(_passing(recipe, shape) if recipe.optimiser.offload else trained, ranks),
        gathered=float(size * (2 * layer + root + max(layer, root))),
        activations=tokens * activations + SCORE_KEPT * kept_scores,
        logits=_logits(recipe, shape, tokens),
        ring=tokens * ring,
    )


def offloaded_activations(recipe: Recipe, shape: ModelShape, size: int, ranks: int) -> float:
    """Bytes of a token in host memory while one layer is recomputed, whose input is on the device.

    Attention that is kept is offloaded too, but not in one process, where torch keeps it.
    """
    if not recipe.activation_offloading:
        return 0.0
    inputs = (shape.layers - 1) * shape.hidden * size
    return _checkpointed(recipe, shape, size) - shape.hidden * size if ranks > 1 else float(inputs)


def _returning(recipe: Recipe, shape: ModelShape, size: int, ranks: int) -> float:
    """Bytes of a token of offloaded tensors that return while the layer after theirs is computed."""
    if not recipe.activation_offloading:
        return 0.0
    attention = shape.width * size + shape.heads * FLOAT32
    selective = recipe.activation_checkpointing == "selective" and ranks > 1
    return float(shape.hidden * size + attention * selective)


def offloaded_moments(recipe: Recipe, shape: ModelShape, ranks: int) -> float:
    """Bytes of a rank's moments in host memory."""
    return _moments(trained_parameters(recipe, shape), ranks) if recipe.optimiser.offload else 0.0


def _moments(parameters: int, ranks: int) -> float:
    """Bytes of AdamW's two moments of so many numbers, divided among the ranks."""
    return 2 * FLOAT32 * parameters / ranks


def _passing(recipe: Recipe, shape: ModelShape) -> int:
    """Numbers of the three largest tensors that the optimiser changes."""
    sizes = {
        name: prod(sides)
        for name, sides in shape.tensors.items()
        if parameter_group(name, len(sides)) in recipe.trainable
    }
    if recipe.lora:
        sizes |= {name: recipe.lora.rank * max(sides) for name, sides in shape.matrices.items()}
    return sum(nlargest(3, sizes.values()))


def _checkpointed(recipe: Recipe, shape: ModelShape, size: int) -> float:
    """Bytes of a token that all layers keep for recomputing: inputs; if selective, also attention's results.

    The attention output of the last layer is counted with what the layer keeps.
    """
    inputs = shape.layers * shape.hidden * size
    attention = (shape.layers - 1) * shape.width * size + shape.layers * shape.heads * FLOAT32
    return float(inputs + attention * (recipe.activation_checkpointing == "selective"))


def _activations(
    recipe: Recipe, shape: ModelShape, size: int, ranks: int, scores: float
) -> tuple[float, float]:
    """Bytes of a token: of activations at the peak, and what the ring adds where attention is the peak.

    The backward pass of the last layer has its peak in its MLP or, if that is tiled, in the norm before it or
    in attention. Norms and the ring's sums are float32 whatever the dtype. The factors are counts of tensors,
    held to a simulation of the model's own code (tests/planning/test_simulated_memory.py). `scores` are bytes
    of attention scores, by token.
    """
    hidden, width, inner = shape.hidden, shape.width, shape.intermediate / recipe.mlp_tiles
    kv = shape.kv_heads * shape.head_dim
    tiled = recipe.mlp_tiles > 1
    attended: float = hidden * (FLOAT32 + 2 * size) + size * (
        2 * width + 3 * kv
    )  # kept by norm and attention
    if any(".q_norm." in name for name in shape.tensors):
        attended += (width + kv) * (FLOAT32 + size / 2)
    kept = attended + hidden * (FLOAT32 + 2 * size) + (0 if tiled else 4 * size * inner)
    in_norm = hidden * (4 * FLOAT32 + 2 * size)
    in_mlp = hidden * (FLOAT32 + size / 2) + size * (2 * inner + kv) + (4 * size * inner if tiled else 0)
    in_attention = hidden * 3 * size + width * (4 * size + 3 * FLOAT32) + scores
    ring = kv * 4 * (size + FLOAT32)
    before = (shape.layers - 1) * kept
    if recipe.activation_checkpointing:
        before = _checkpointed(recipe, shape, size) - offloaded_activations(recipe, shape, size, ranks)
        before += _returning(recipe, shape, size, ranks)
    normed = attended + hidden * (FLOAT32 + 2 * size) + in_norm
    without_ring = before + max(kept + in_mlp, normed, attended + in_attention)
    return without_ring, max(0.0, before + attended + in_attention + ring - without_ring)


def _scores(shape: ModelShape, tokens: float, pairs: float) -> float:
    """Bytes of attention scores at the peak of a layer, which fused kernels do not keep.

    In the ring, with a soft cap, three tensors of at most so many as the kernel computes at a time.
    """
    pieces = min(SCORES, shape.heads * tokens**2) if shape.capped else 0.0
    return shape.heads * SCORE * pairs or 3 * FLOAT32 * pieces


def trained_parameters(recipe: Recipe, shape: ModelShape) -> int:
    """How many numbers the optimiser changes."""
    matrices = sum(map(prod, shape.matrices.values()))
    embeddings = _embeddings(shape)
    sizes = {
        "linear": matrices if recipe.lora is None else lora_parameters(shape, recipe.lora.rank),
        "norms": shape.parameters - matrices - embeddings,
        "embeddings": embeddings,
    }
    return sum(sizes[group] for group in recipe.trainable)


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Numbers of the LoRA factors of all linear layers."""
    return rank * sum(map(sum, shape.matrices.values()))


def _frozen_linear(recipe: Recipe, shape: ModelShape) -> int:
    """Numbers of linear layers that are not trained, an output layer of its own among them."""
    trained = set(recipe.trainable) - ({"linear"} if recipe.lora else set())
    head = output_embedding(shape.tensors)
    names = [*shape.matrices, *([] if head is None else [head])]
    return sum(
        prod(shape.tensors[name])
        for name in names
        if len(shape.tensors[name]) == 2 and parameter_group(name, 2) not in trained
    )


def _embeddings(shape: ModelShape) -> int:
    return sum(prod(sides) for name, sides in shape.tensors.items() if rows_are_tokens(name))


def _logits(recipe: Recipe, shape: ModelShape, tokens: float) -> float:
    """Bytes of the logits of one piece, and of the sum of all pieces' gradients of the output weights."""
    piece = logit_chunk_tokens(shape.vocabulary)
    summed = FLOAT32 * shape.vocabulary * shape.hidden if "embeddings" in recipe.trainable else 0
    return min(tokens, piece) * LOGITS * shape.vocabulary + (summed if tokens > piece else 0)
