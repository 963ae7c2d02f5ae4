"""The model in memory: built with given RoPE settings, filled from a folder, and its trainable parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import read_rows
from contextgraft.config.training import Recipe
from contextgraft.errors import CheckpointError, InputError, library_errors
from contextgraft.formats.model.pretrained import NO_REMOTE_CODE, use_built_in_kernels
from contextgraft.formats.tensor_names import is_embedding, parameter_group
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import lora
from contextgraft.training.activations.compiled import compile_layers
from contextgraft.training.activations.offloading import Offloading
from contextgraft.training.activations.selective_checkpointing import ContextFn
from contextgraft.training.activations.tiled_mlp import check_tiling, tile_mlps

LocalRows = Callable[[torch.Tensor], slice]  # the rows of a parameter that this process holds


def all_rows(_: torch.Tensor) -> slice:
    """The local rows of every parameter in a run of one process."""
    return slice(0, None)


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of an attention head, as transformers derives it."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def parse_config(config: Mapping[str, Any]) -> Any:
    """The config as transformers' class of the model fills it in; InputError for an unknown architecture."""
    kind = config.get("model_type")
    rest = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    with library_errors("unknown architecture", str(kind), InputError):
        return AutoConfig.for_model(kind, **rest)


def build(
    config: Mapping[str, Any],
    rope: RopeSettings,
    *,
    activation_checkpointing: bool,
    attention: str | None = None,
    context_fn: ContextFn | None = None,
) -> torch.nn.Module:
    """A float32 model of this architecture with these RoPE settings, whose parameters are on the device meta.

    They get memory from `materialise`, after the model is sharded, if it is. Buffers are on the processor.
    `attention` None is transformers' choice: PyTorch's (sdpa), or for classes that it does not serve (soft
    caps, attention sinks) matrix products (eager).
    `context_fn` is that of torch.utils.checkpoint. An unknown architecture, or dropout, raises InputError.
    """
    parsed = use_built_in_kernels(parse_config(apply_rope(config, rope)))
    if attention is None:
        parsed._attn_implementation = None  # whatever config.json names
    _check_dropout(config)
    unknown = library_errors("unknown architecture", parsed.model_type, InputError)
    with unknown, no_init_weights(), parameters_on_meta():
        model = AutoModelForCausalLM.from_config(
            parsed,
            dtype=torch.float32,
            attn_implementation=attention,
            **NO_REMOTE_CODE,
        )
    model.tie_weights()  # skipped with the initialisation
    if activation_checkpointing:
        # Older versions of transformers only have the second name.
        enable = getattr(model, "activation_checkpointing_enable", None)
        options = {"use_reentrant": False} | ({} if context_fn is None else {"context_fn": context_fn})
        (enable or model.gradient_checkpointing_enable)(options)
    model.train()
    return cast("torch.nn.Module", model)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters that are registered meanwhile are moved to the device meta one by one; buffers are not."""

    def on_meta(_: torch.nn.Module, __: str, parameter: torch.nn.Parameter) -> Any:
        if parameter.is_meta:
            return parameter  # once more: tied weights
        return torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    registered = register_module_parameter_registration_hook(on_meta)
    try:
        yield
    finally:
        registered.remove()


def materialise(model: torch.nn.Module, device: torch.device) -> None:
    """Give uninitialised memory to parameters on the device meta; of sharded ones to this rank's shard."""
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta and parameter not in made:
                empty = torch.empty_like(parameter, device=device)
                made[parameter] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
            if parameter.is_meta:
                setattr(module, name, made[parameter])
    model.to(device)  # buffers, and factors of LoRA


def _check_dropout(config: Mapping[str, Any]) -> None:
    """Dropout would differ between processes, and after an interruption."""
    for key, value in config.items():
        if key.endswith(("dropout", "pdrop", "dropout_prob")) and value:
            raise InputError(f"{key} is not supported", expected="0", received=value, remedy="set it to 0")


def load_weights(model: torch.nn.Module, base: ModelFolder, local_rows: LocalRows = all_rows) -> None:
    """Fill the model from the base; a missing tensor, or one of another shape, raises CheckpointError."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if lora.is_factor(name):
                continue
            stored = lora.base_name(name)
            shape = list(base.tensors[stored].shape) if stored in base.tensors else None
            if shape != list(parameter.shape):
                raise CheckpointError(
                    f"tensor {stored!r} is missing or has another shape",
                    path=base.path,
                    expected=list(parameter.shape),
                    received=shape or "none",
                )
            shard = local_shard(parameter)
            if shard.numel():  # a rank may hold no rows of a short tensor
                start, stop, _ = local_rows(parameter).indices(base[stored].rows)
                shard.copy_(read_rows(base, stored, start, stop))


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def build_trainable(
    recipe: Recipe,
    base: ModelFolder,
    rope: RopeSettings,
    *,
    attention: str | None,
    keep_attention: ContextFn,
    offloaded: Offloading | None,
) -> torch.nn.Module:
    """A model without memory for its weights, in which only what the recipe names is trainable.

    `keep_attention` are the contexts of this attention for selective activation checkpointing; `offloaded` is
    told where layers begin.
    """
    context_fn = keep_attention if recipe.activation_checkpointing == "selective" else None
    model = build(
        base.config,
        rope,
        activation_checkpointing=bool(recipe.activation_checkpointing),
        attention=attention,
        context_fn=context_fn if offloaded is None else offloaded.contexts(context_fn),
    )
    if recipe.compile:
        compile_layers(decoder_layers(model))
    if recipe.mlp_tiles > 1:
        tile_mlps(decoder_layers(model), recipe.mlp_tiles)
    if recipe.lora is not None and "linear" in recipe.trainable:
        lora.insert(model, recipe.lora, linear_layers(model), seed=recipe.seed)
    for name, parameter in model.named_parameters():
        trainable = parameter_group(name, parameter.ndim) in recipe.trainable and not lora.is_base(name)
        parameter.requires_grad_(trainable)
    return model


def cast_frozen(model: torch.nn.Module, dtype: torch.dtype, *, linear_only: bool = False) -> None:
    """Give parameters that are not trained another dtype, while they are on the device meta.

    FSDP computes with all parameters in the dtype of activations: cast beforehand, they are the same numbers
    in less memory. torch.autocast does so in linear layers, not in norms and embeddings: `linear_only` leaves
    those, and output layers that are tied to them, as they are.
    """
    cast: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    kept = _outside_linear_layers(model) if linear_only else set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.requires_grad or parameter in kept:
                continue
            if parameter not in cast:
                cast[parameter] = torch.nn.Parameter(parameter.to(dtype), requires_grad=False)
            setattr(module, name, cast[parameter])


def _outside_linear_layers(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """All parameters but the weights of linear layers; subclasses may compute with theirs in another way."""
    return {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if type(module) is not torch.nn.Linear or name != "weight"
    }


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The layers of a causal language model, whatever its class calls them; InputError if it has none."""
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise InputError(
        "cannot find the layers of this architecture",
        expected=f"a list of {config.num_hidden_layers} modules",
        received=type(model).__name__,
    )


def base_model_name(causal_lm: torch.nn.Module) -> str:
    """Name of the part of a causal language model that has its layers; Llama 4's class states another."""
    stated = str(causal_lm.base_model_prefix)
    if hasattr(causal_lm, stated):
        return stated
    layers = decoder_layers(causal_lm)
    return next(
        name for name, child in causal_lm.named_children() if any(part is layers for part in child.modules())
    )


def check_mlp_tiles(recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> None:
    """Raise InputError if the recipe tiles MLPs and this architecture's cannot be; needs little memory."""
    if recipe.mlp_tiles > 1:
        with torch.device("meta"):
            model = build(base.config, rope, activation_checkpointing=False)
        width = model.config.get_text_config().hidden_size  # type: ignore[operator, union-attr]
        check_tiling(decoder_layers(model), width)


def linear_layers(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weights are in the group `linear`."""
    return [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and parameter_group(name, parameter.ndim) == "linear"
    ]


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that receive gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def zero_frozen_rows(
    parameters: Mapping[str, torch.nn.Parameter], frozen: int, local_rows: LocalRows = all_rows
) -> None:
    """Set the gradient of the first `frozen` rows of the embeddings to 0."""
    for name, parameter in parameters.items():
        if frozen and is_embedding(name):
            assert parameter.grad is not None
            local_shard(parameter.grad)[: max(0, frozen - local_rows(parameter).start)] = 0
