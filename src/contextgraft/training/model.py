"""The model in memory: built with given rotary settings, weights from a folder, groups that move."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.checkpoint.layout import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import CheckpointError, InputError
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import lora

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of an attention head, as transformers derives it."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def build(
    config: Mapping[str, Any], rope: RopeSettings, *, activation_checkpointing: bool, attention: str = "sdpa"
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
        parsed, dtype=torch.float32, attn_implementation=attention
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


def prepared(recipe: Recipe, base: ModelFolder, rope: RopeSettings, *, attention: str) -> torch.nn.Module:
    """The base with these rotary settings, in which only what the recipe names may move."""
    model = build(
        base.config, rope, activation_checkpointing=recipe.activation_checkpointing, attention=attention
    )
    put_weights(model, read_weights(base), base.path)
    if recipe.lora is not None and "linear" in recipe.trainable:
        lora.insert(model, recipe.lora, linear_layers(model), seed=recipe.seed)
    for name, parameter in model.named_parameters():
        learns = group(name, parameter) in recipe.trainable and not lora.is_base(name)
        parameter.requires_grad_(learns)
    return model


def linear_layers(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weights are the group `linear`."""
    return [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and group(name, parameter) == "linear"
    ]


def moving(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What may move, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def freeze_rows(moving: Mapping[str, torch.nn.Parameter], rows: int) -> None:
    """Keep so many first rows of the embeddings as they are."""
    for name, parameter in moving.items():
        if rows and name.endswith(EMBEDDINGS):
            parameter.register_hook(lambda grad: _without_rows(grad, rows))  # type: ignore[no-untyped-call]


def _without_rows(grad: torch.Tensor, rows: int) -> torch.Tensor:
    kept = grad.clone()
    kept[:rows] = 0
    return kept
