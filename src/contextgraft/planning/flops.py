"""Floating-point operations, by arithmetic alone.

A multiplication and an addition are two operations. Only large terms are counted: matrix products with the
weights (2 for each weight and token) and attention, whose cost follows from heads x head size, not from the
hidden size: in Qwen3-0.6B the first is 2,048, the second 1,024.
"""

from typing import Literal

from contextgraft.planning.memory import visible
from contextgraft.planning.shapes.model_shape import ModelShape

Recomputation = bool | Literal["selective"]


def prefill_flops(shape: ModelShape, start: int, stop: int) -> int:
    """Operations to read positions `start` to `stop` while those before are cached.

    From 0 to T with full causal attention in all layers this is 2 P T + 2 layers width T^2: scores and
    weighted sum take 4 width operations for each pair of positions, and half of the pairs are visible.
    """
    doubled_pairs = sum(
        _doubled_pairs(window, stop) - _doubled_pairs(window, start) for window in shape.windows
    )
    return 2 * shape.active * (stop - start) + 2 * shape.width * doubled_pairs


def training_flops(shape: ModelShape, length: int, *, frozen_weights: bool, recompute: Recomputation) -> int:
    """Operations of one sequence in training: forward, and backward for twice as much.

    With `frozen_weights` (LoRA) no gradient of the weights is computed, with `recompute` (activation
    checkpointing) the forward pass runs twice, without its attention if that is selective.
    """
    forward, products = prefill_flops(shape, 0, length), 2 * shape.active * length
    saved = products if frozen_weights else 0
    again = products if recompute == "selective" else forward * recompute
    return 3 * forward + again - saved


def _doubled_pairs(window: int | None, length: int) -> int:
    """Twice the pairs of positions that a layer sees in a text, T^2 without a window; diagonals left out."""
    reach = visible(window, length)
    return reach * reach + 2 * reach * (length - reach)
