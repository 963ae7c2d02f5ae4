"""What an evaluation costs: bytes, floating-point operations and seconds, by arithmetic alone.

Conventions: a token is one position of prompt or answer; a multiplication and an addition are two operations;
bytes are as computed in, not as stored. Nothing here is measured: the formulas count the large terms only.
"""

import math
from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """What of a model its costs depend on.

    `active` are the parameters one token passes through, fewer than `parameters` where experts are chosen.
    `width` is heads x head size. `windows` has an entry for each layer: how many tokens back it looks, None
    for all.
    """

    name: str
    parameters: int
    active: int
    width: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    dtype: str

    @property
    def shares(self) -> bool:
        """Whether prompts can share a beginning: not where a layer forgets, for it cannot be taken back."""
        return all(window is None for window in self.windows)


@dataclass(frozen=True)
class Device:
    """One accelerator: operations a second at best, the share of them reached, bytes a second, and bytes.

    `usable` is the share of the memory for weights, keys and values; the rest is for activations.
    """

    flops: float
    utilisation: float
    bandwidth: float
    memory: float
    usable: float = 0.9


def weight_bytes(shape: Shape) -> int:
    """Bytes of the weights."""
    return shape.parameters * BYTES[shape.dtype]


def kv_bytes_per_token(shape: Shape) -> int:
    """Bytes of a token's keys and values in all layers: 2 * layers * kv_heads * head_dim * bytes."""
    return 2 * len(shape.windows) * shape.kv_heads * shape.head_dim * BYTES[shape.dtype]


def kv_bytes(shape: Shape, length: int) -> int:
    """Bytes of keys and values of a text of `length` tokens; a layer with a window keeps only that much."""
    kept = sum(_reach(window, length) for window in shape.windows)
    return 2 * kept * shape.kv_heads * shape.head_dim * BYTES[shape.dtype]


def prefill_flops(shape: Shape, start: int, stop: int) -> int:
    """Operations to read positions start to stop with those before kept: 2 P (stop - start), and attention.

    From 0 to T with causal attention in all layers this is 2 P T + 2 layers width T^2: scores and weighted
    sum are 4 width operations for each pair of positions, and half of the pairs are seen.
    """
    pairs2 = sum(_pairs2(window, stop) - _pairs2(window, start) for window in shape.windows)
    return 2 * shape.active * (stop - start) + 2 * shape.width * pairs2


def decode_bytes(shape: Shape, length: int, tokens: int) -> int:
    """Bytes read from memory to write `tokens` tokens after a text of `length`, one prompt at a time.

    Each token reads the weights it passes through and all keys and values, which are taken not to grow.
    """
    return tokens * (shape.active * BYTES[shape.dtype] + kv_bytes(shape, length))


def gpus(shape: Shape, length: int, device: Device) -> int:
    """Fewest devices that hold the weights and one prompt's keys and values together."""
    return math.ceil((weight_bytes(shape) + kv_bytes(shape, length)) / (device.memory * device.usable))


def prefill_hours(flops: float, device: Device) -> float:
    """Device hours of so many operations: what one device would take that had the memory."""
    return flops / (device.flops * device.utilisation) / 3600


def decode_hours(read: float, device: Device) -> float:
    """Device hours of so many bytes read."""
    return read / device.bandwidth / 3600


def _reach(window: int | None, length: int) -> int:
    """Tokens a layer keeps of a text."""
    return length if window is None else min(length, window)


def _pairs2(window: int | None, length: int) -> int:
    """Twice the pairs of positions a layer sees in a text, T^2 without a window: diagonals are left out."""
    reach = _reach(window, length)
    return reach * reach + 2 * reach * (length - reach)
