"""Checked values of a model's config.json. Wrong ones raise CheckpointError that names the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextgraft.errors import CheckpointError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one weight
MAX_LAYERS = 1000
MAX_SIZE = 2**31 - 1
FULL, SLIDING = "full_attention", "sliding_attention"
SOFT_CAP = "attn_logit_softcapping"  # the key of the cap of attention scores; none if it is null


def positive_integer(value: Any, key: str, path: Path, largest: int = MAX_SIZE) -> int:
    """A whole number from 1 to `largest`."""
    if type(value) is not int or not 1 <= value <= largest:
        raise CheckpointError(
            f"has no usable {key}",
            path=path,
            expected=f"a positive number of at most {largest}",
            received=str(value)[:40],
        )
    return value


def check_layer_counts(section: Any, path: Path) -> None:
    """Raise CheckpointError where a number of layers, under any name, is too large to build a model of."""
    for key, value in section.items() if isinstance(section, dict) else ():
        if key.endswith(("layer", "layers")) and isinstance(value, int | float) and value > MAX_LAYERS:
            raise CheckpointError(
                f"has no usable {key}", path=path, expected=f"at most {MAX_LAYERS}", received=value
            )
        check_layer_counts(value, path)


def layer_windows(kinds: Sequence[Any], window: Any, path: Path) -> tuple[int | None, ...]:
    """The attention window of each layer in tokens, None for full attention, from `layer_types`."""
    unknown = next((kind for kind in kinds if kind not in (FULL, SLIDING)), None)
    if unknown is not None:
        raise unsupported_layers(unknown, path)
    if SLIDING in kinds:
        window = positive_integer(window, "sliding_window", path)
    return tuple(window if kind == SLIDING else None for kind in kinds)


def unsupported_layers(kind: Any, path: Path) -> CheckpointError:
    """The error for layers that keep something else than keys and values of attention heads."""
    return CheckpointError(
        "has layers whose memory cannot be planned",
        path=path,
        expected=f"{FULL} or {SLIDING}",
        received=str(kind)[:40],
    )


def weight_dtype(value: Any, path: Path) -> str:
    """The dtype of the weights; bfloat16 where the config names none."""
    name = str(value or "bfloat16").removeprefix("torch.")
    if name not in BYTES:
        raise CheckpointError(
            "has weights of a dtype that cannot be planned",
            path=path,
            expected=", ".join(BYTES),
            received=name[:40],
        )
    return name
