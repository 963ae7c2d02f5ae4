"""Which models can exchange deltas (same architecture, same shapes), and what each tensor is."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from contextgraft.checkpoint.layout import ModelFolder, TensorInfo
from contextgraft.errors import CheckpointError, MismatchError

FLOATS = ("F32", "F16", "BF16")
LAYER = re.compile(r"(^|\.)layers\.\d+\.")


class Kind(StrEnum):
    """What becomes of a tensor's delta."""

    LINEAR = "linear"  # factorised
    DENSE = "dense"  # norms and biases: kept whole
    IGNORED = "ignored"  # embeddings, lm_head, buffers: only reported


def kind(info: TensorInfo) -> Kind:
    """Linear: every 2-D weight inside a layer. Dense: whatever has one dimension. The rest is ignored.

    Weights in layers that are quantised, or have more than two dimensions, raise CheckpointError by name.
    """
    weight = LAYER.search(info.name) is not None and len(info.shape) > 1
    if weight and (len(info.shape) > 2 or info.dtype not in FLOATS):
        raise CheckpointError(
            f"tensor {info.name!r} cannot be factorised",
            path=info.shard,
            expected=f"two dimensions of {', '.join(FLOATS)}",
            received=f"{list(info.shape)} of {info.dtype}",
        )
    if weight and info.name.endswith(".weight"):
        return Kind.LINEAR
    buffer = info.name.endswith("inv_freq") or info.dtype not in FLOATS
    return Kind.DENSE if len(info.shape) == 1 and not buffer else Kind.IGNORED


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values on which two models must agree, with the defaults of transformers filled in."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    return {
        "model_type": config.get("model_type"),
        "num_hidden_layers": config.get("num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.get("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or head_dim,
    }


def refuse_other(model: ModelFolder, other: str, expected: Mapping[str, Any]) -> None:
    """Raise MismatchError naming the first value in which `model` differs from `other`'s, `expected`."""
    received = describe(model.config)
    for key, value in expected.items():
        if received.get(key) != value:
            raise MismatchError(
                f"has another architecture than {other}",
                path=model.path,
                expected=f"{key} {value}",
                received=f"{key} {received.get(key)}",
                remedy="both must come from the same base",
            )


def refuse_shape(model: ModelFolder, name: str, other: str, shape: tuple[int, ...]) -> None:
    """Raise MismatchError if `model` lacks a tensor that `other` has, or has it in another shape."""
    info = model.tensors.get(name)
    if info is None or info.shape != shape:
        raise MismatchError(
            f"does not fit {other} at tensor {name!r}",
            path=model.path,
            expected=f"shape {list(shape)}",
            received="no such tensor" if info is None else f"shape {list(info.shape)}",
            remedy="both must come from the same base",
        )
