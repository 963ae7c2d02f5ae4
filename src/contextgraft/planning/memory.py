"""Bytes: of weights, of keys and values, read while answers are written, and the devices that hold them.

One rule for the number of devices: the fewest whose memory, filled to FILL, holds the weights and the keys
and values of the longest prompt. transformers places layers on devices in turn, so any number will do,
and the time is that of one device.

FILL is 0.9, the share that vLLM fills by default (`gpu_memory_utilization`). Memory is given in decimal GB
while cards are sold in GiB, so 0.9 of "80 GB" is 84 % of the card: some 13 GB of each are left for the
runtime, the activations of one chunk of the prefill, and layers that do not divide evenly.
"""

import math

from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape

FILL = 0.9


def weight_bytes(shape: ModelShape) -> int:
    """Bytes of all weights."""
    return shape.parameters * shape.dtype_bytes


def kv_entries(shape: ModelShape) -> int:
    """Numbers that attention keeps for one token in all layers: 2 * layers * kv_heads * head_dim."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Bytes of the keys and values of one token in all layers."""
    return kv_entries(shape) * shape.dtype_bytes


def kv_bytes(shape: ModelShape, length: int) -> int:
    """Bytes of the keys and values of `length` tokens; a layer with a window keeps only the last of them."""
    kept = sum(visible(window, length) for window in shape.windows)
    return 2 * kept * shape.kv_heads * shape.head_dim * shape.dtype_bytes


def held_bytes(shape: ModelShape, length: int) -> int:
    """Bytes of the weights with the keys and values of one prompt of `length` tokens."""
    return weight_bytes(shape) + kv_bytes(shape, length)


def decode_bytes(shape: ModelShape, length: int, tokens: int) -> int:
    """Bytes read from memory to write `tokens` tokens after a prompt of `length`, one prompt at a time.

    Each token reads the weights it passes through and all keys and values, whose growth is left out.
    """
    return tokens * (shape.active * shape.dtype_bytes + kv_bytes(shape, length))


def fewest_devices(held: float, hardware: Hardware) -> int:
    """The fewest devices whose memory, filled to FILL, holds so many bytes."""
    return max(1, math.ceil(held / (FILL * hardware.memory)))


def visible(window: int | None, length: int) -> int:
    """Tokens of a text of `length` that a layer keeps."""
    return length if window is None else min(length, window)
