"""Bytes that a rank holds while training. docs/training.md compares them with what was measured."""

from dataclasses import dataclass
from math import prod

from contextgraft.config.training import Recipe
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.training.logit_chunks import logit_chunk_tokens

FLOAT32 = 4  # bytes of a weight, a gradient and a moment of the optimiser
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


def rank_memory(recipe: Recipe, shape: ModelShape, ranks: int, tokens: float, size: int) -> RankMemory:
    """Bytes of a rank that holds `tokens` tokens at once, with activations of `size` bytes.

    Weights, gradients and moments are divided among all ranks; two layers and the embeddings are gathered.
    """
    trained = trained_parameters(recipe, shape)
    factors = lora_parameters(shape, recipe.lora.rank) if recipe.lora else 0
    layer = (shape.parameters - _embeddings(shape) - shape.hidden) // shape.layers
    root = shape.parameters - shape.layers * layer
    # activations of a token: those of all layers, or each layer's input and one layer's inside
    inside = 12 * shape.hidden + 3 * shape.intermediate
    recomputed = inside + shape.layers * shape.hidden
    kept = recomputed if recipe.activation_checkpointing else inside * shape.layers
    return RankMemory(
        weights=FLOAT32 * (shape.parameters + factors) / ranks,
        gradients=FLOAT32 * trained / ranks,
        moments=2 * FLOAT32 * trained / ranks,
        gathered=float(size * (2 * layer + root + max(layer, root))),
        activations=tokens * size * kept,
        logits=_logits(recipe, shape, tokens),
        ring=tokens * 2 * shape.kv_heads * shape.head_dim * 4 * (size + FLOAT32),
    )


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


def _embeddings(shape: ModelShape) -> int:
    return sum(prod(sides) for name, sides in shape.tensors.items() if rows_are_tokens(name))


def _logits(recipe: Recipe, shape: ModelShape, tokens: float) -> float:
    """Bytes of the logits of one piece, and of the sum of all pieces' gradients of the output weights."""
    piece = logit_chunk_tokens(shape.vocabulary)
    summed = FLOAT32 * shape.vocabulary * shape.hidden if "embeddings" in recipe.trainable else 0
    return min(tokens, piece) * LOGITS * shape.vocabulary + (summed if tokens > piece else 0)
