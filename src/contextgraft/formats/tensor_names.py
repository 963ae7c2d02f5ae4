"""Which models can exchange deltas (same architecture, same shapes), and what each tensor is."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder, TensorInfo
from contextgraft.errors import CheckpointError, MismatchError

FLOATS = ("F32", "F16", "BF16")
LAYER = re.compile(r"(^|\.)layers\.\d+\.")
INPUTS = ("embed_tokens", "embed_in", "word_embeddings", "wte")
OUTPUTS = ("lm_head", "embed_out")


class Kind(StrEnum):
    """What becomes of a tensor's delta."""

    LINEAR = "linear"  # factorised
    INPUT = "input"  # token embeddings: factorised by token, if asked for
    OUTPUT = "output"  # lm_head: likewise
    DENSE = "dense"  # norms and biases: kept whole
    IGNORED = "ignored"  # buffers, and what was not selected: only reported


EMBEDDINGS = dict.fromkeys(INPUTS, Kind.INPUT) | dict.fromkeys(OUTPUTS, Kind.OUTPUT)
FACTORISED = (Kind.LINEAR, Kind.INPUT, Kind.OUTPUT)
BY_TOKEN = (Kind.INPUT, Kind.OUTPUT)


def kind(info: TensorInfo, folder: Path) -> Kind:
    """Linear: every 2-D weight inside a layer. Dense: whatever has one dimension. Embeddings go by name.

    Weights in layers that are quantised, or have more than two dimensions, raise CheckpointError by name.
    """
    weight = LAYER.search(info.name) is not None and len(info.shape) > 1
    if weight and (len(info.shape) > 2 or info.dtype not in FLOATS):
        raise CheckpointError(
            f"tensor {info.name!r} cannot be factorised",
            path=folder / info.shard,
            expected=f"two dimensions of {', '.join(FLOATS)}",
            received=f"{list(info.shape)} of {info.dtype}",
            remedy="store fused experts one by one, use the original precision, or --exclude it",
        )
    if info.dtype not in FLOATS or info.name.endswith("inv_freq") or not info.numel:
        return Kind.IGNORED
    if len(info.shape) == 1:
        return Kind.DENSE
    if len(info.shape) != 2 or not info.name.endswith(".weight"):
        return Kind.IGNORED
    return Kind.LINEAR if weight else EMBEDDINGS.get(_module(info.name), Kind.IGNORED)


def rows_are_tokens(name: str) -> bool:
    """Whether each row of a tensor belongs to a token: embeddings and lm_head, their biases too."""
    return _module(name) in EMBEDDINGS


def _module(name: str) -> str:
    """The last part of a tensor's name before `weight` or `bias`."""
    return name.rpartition(".")[0].rpartition(".")[2]


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
            remedy="both must come from the same base"
            + (", with embeddings tied or untied alike" if rows_are_tokens(name) else ""),
        )
