"""The model in memory: built with given rotary settings, weights from a folder, groups that move."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import CheckpointError, InputError
from contextgraft.formats.tensor_names import is_embedding, parameter_group
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import lora

Rows = Callable[[torch.Tensor], slice]


def _every(_: torch.Tensor) -> slice:
    """The rows that a process holds which is alone."""
    return slice(0, None)


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of an attention head, as transformers derives it."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def build(
    config: Mapping[str, Any], rope: RopeSettings, *, activation_checkpointing: bool, attention: str = "sdpa"
) -> torch.nn.Module:
    """A float32 model of this architecture with these rotary settings, its weights not yet written.

    Memory that nothing has written to takes none: a model that is sharded before it is filled needs only its
    shards.
    """
    changed = settings.apply(config, rope)
    kind = changed.pop("model_type", None)
    changed.pop("dtype", None)
    changed.pop("torch_dtype", None)
    _refuse_dropout(config)
    try:
        parsed = AutoConfig.for_model(kind, **changed)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(
                parsed, dtype=torch.float32, attn_implementation=attention
            )
    except ValueError as error:
        raise InputError("unknown architecture", received=kind, remedy=str(error)[:80]) from None
    model.tie_weights()  # which is a part of the initialisation
    if activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    return cast("torch.nn.Module", model)


def _refuse_dropout(config: Mapping[str, Any]) -> None:
    """What is dropped at random would differ from process to process, and after an interruption."""
    for key, value in config.items():
        if key.endswith(("dropout", "pdrop", "dropout_prob")) and value:
            raise InputError(f"{key} is not supported", expected="0", received=value, remedy="set it to 0")


def read_weights(folder: ModelFolder) -> dict[str, torch.Tensor]:
    """All tensors of a folder, in their own dtype."""
    return {
        name: tensor for shard in folder.shards for name, tensor in load_file(folder.path / shard).items()
    }


def put_weights(model: torch.nn.Module, base: ModelFolder, rows: Rows = _every) -> None:
    """Fill the model from the base; a parameter without a tensor of its shape raises CheckpointError.

    `rows` says which rows of a parameter this process holds.
    """
    with ExitStack() as stack, torch.no_grad():
        files = {
            shard: stack.enter_context(safe_open(base.path / shard, framework="pt")) for shard in base.shards
        }
        for name, parameter in model.named_parameters():
            if lora.is_factor(name):
                continue
            stored = lora.base_name(name)
            shape = list(base.tensors[stored].shape) if stored in base.tensors else None
            if shape != list(parameter.shape):
                raise CheckpointError(
                    f"tensor {stored!r} is missing or of another shape",
                    path=base.path,
                    expected=list(parameter.shape),
                    received=shape or "none",
                )
            mine = local(parameter)
            if mine.numel():  # a rank may hold nothing of a short one
                mine.copy_(files[base.weight_map[stored]].get_slice(stored)[rows(parameter)])


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def prepared(recipe: Recipe, base: ModelFolder, rope: RopeSettings, *, attention: str) -> torch.nn.Module:
    """A model for the base's weights, in which only what the recipe names may move; to be filled."""
    model = build(
        base.config, rope, activation_checkpointing=recipe.activation_checkpointing, attention=attention
    )
    if recipe.lora is not None and "linear" in recipe.trainable:
        lora.insert(model, recipe.lora, linear_layers(model), seed=recipe.seed)
    for name, parameter in model.named_parameters():
        learns = parameter_group(name, parameter.ndim) in recipe.trainable and not lora.is_base(name)
        parameter.requires_grad_(learns)
    return model


def linear_layers(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weights are the group `linear`."""
    return [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and parameter_group(name, parameter.ndim) == "linear"
    ]


def moving(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What may move, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def keep_rows(moving: Mapping[str, torch.nn.Parameter], rows: int, held: Rows = _every) -> None:
    """Take the gradient from so many first rows of the embeddings; `held`: rows that this process holds."""
    for name, parameter in moving.items():
        if rows and is_embedding(name):
            assert parameter.grad is not None
            local(parameter.grad)[: max(0, rows - held(parameter).start)] = 0
