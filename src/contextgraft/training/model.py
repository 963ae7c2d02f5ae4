"""The model in memory: built with given rotary settings, weights from a folder, groups that move."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.checkpoint.layout import ModelFolder
from contextgraft.errors import CheckpointError, InputError
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of an attention head, as transformers derives it."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def build(
    config: Mapping[str, Any], rope: RopeSettings, *, activation_checkpointing: bool
) -> torch.nn.Module:
    """A float32 model of this architecture with these rotary settings and no particular weights."""
    changed = settings.apply(config, rope)
    kind = changed.pop("model_type", None)
    changed.pop("dtype", None)
    changed.pop("torch_dtype", None)
    try:
        parsed = AutoConfig.for_model(kind, **changed)
    except ValueError as error:
        raise InputError("unknown architecture", received=kind, remedy=str(error)[:80]) from None
    model: torch.nn.Module = AutoModelForCausalLM.from_config(
        parsed, dtype=torch.float32, attn_implementation="sdpa"
    )
    if activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.train()
    return model


def read_weights(folder: ModelFolder) -> dict[str, torch.Tensor]:
    """All tensors of a folder, in their own dtype."""
    return {
        name: tensor for shard in folder.shards for name, tensor in load_file(folder.path / shard).items()
    }


def put_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: object) -> None:
    """Copy weights into the model's parameters; a parameter without one raises CheckpointError."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in weights or weights[name].shape != parameter.shape:
                raise CheckpointError(
                    f"tensor {name!r} is missing or of another shape",
                    path=str(source),
                    expected=list(parameter.shape),
                    received=list(weights[name].shape) if name in weights else "none",
                )
            parameter.copy_(weights[name])


def group(name: str, parameter: torch.Tensor) -> str:
    """The recipe's group a parameter belongs to: embeddings, linear or norms (all that is no matrix)."""
    if name.endswith(EMBEDDINGS):
        return "embeddings"
    return "linear" if parameter.ndim == 2 else "norms"


def release(model: torch.nn.Module, groups: Sequence[str], frozen_rows: int) -> dict[str, torch.nn.Parameter]:
    """Let only these groups move, of embeddings only rows from `frozen_rows` on; returns what moves."""
    moving: dict[str, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        belongs = group(name, parameter)
        parameter.requires_grad_(belongs in groups)
        if belongs not in groups:
            continue
        moving[name] = parameter
        if belongs == "embeddings" and frozen_rows:
            parameter.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: _without_rows(grad, frozen_rows)
            )
    return moving


def _without_rows(grad: torch.Tensor, rows: int) -> torch.Tensor:
    kept = grad.clone()
    kept[:rows] = 0
    return kept
