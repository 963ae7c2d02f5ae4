"""Shapes of models that no formula describes: built by transformers on the meta device, without memory.

This imports torch and transformers, and takes seconds.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from contextgraft.errors import CheckpointError
from contextgraft.formats.model.loadable import check_config
from contextgraft.formats.model.pretrained import NO_REMOTE_CODE, use_built_in_kernels
from contextgraft.planning.shapes.config_values import (
    FULL,
    SLIDING,
    SOFT_CAP,
    layer_windows,
    positive_integer,
    unsupported_layers,
    weight_dtype,
)
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.rope.model_class import quiet_transformers

EXPERTS = "num_local_experts", "num_experts", "n_routed_experts"


def build_shape(name: str, data: Mapping[str, Any], path: Path, dtype: str) -> ModelShape:
    """The shape of the model that transformers builds from a config.

    CheckpointError where it cannot be built, or its layers keep more than keys and values of heads.
    """
    config, parameters, sdpa = _build(data, path)

    def size(key: str) -> int:
        return positive_integer(getattr(config, key, None), key, path)

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    head_dim = getattr(config, "head_dim", None)
    kv_heads = getattr(config, "num_key_value_heads", None)
    return ModelShape(
        name=name,
        hidden=hidden,
        intermediate=getattr(config, "intermediate_size", None) or 4 * hidden,
        heads=heads,
        kv_heads=positive_integer(kv_heads or heads, "num_key_value_heads", path),
        head_dim=positive_integer(head_dim or hidden // heads, "head_dim", path),
        vocabulary=size("vocab_size"),
        windows=_windows(config, size("num_hidden_layers"), path),
        tensors=dict(_separate_experts(parameters)),
        idle=_idle(config, parameters),
        dtype=weight_dtype(config.dtype, path) if dtype == "auto" else dtype,
        eager=not sdpa,
        capped=not sdpa and getattr(config, SOFT_CAP, None) is not None,  # others ignore the key
    )


@quiet_transformers()
def _build(data: Mapping[str, Any], path: Path) -> tuple[Any, dict[str, tuple[int, ...]], bool]:
    """The configuration of the text model, the shape of each parameter, and whether its class takes sdpa."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_config(data, path)
    dropped = {"model_type", "quantization_config", "auto_map"}
    kept = {key: value for key, value in data.items() if key not in dropped}
    try:
        config = AutoConfig.for_model(data.get("model_type"), **kept).get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(use_built_in_kernels(config), **NO_REMOTE_CODE)
    except Exception as error:  # transformers raises anything for a malformed config
        raise CheckpointError(
            "does not describe a causal language model of transformers",
            path=path,
            received=str(error)[:200],
        ) from None
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return config, shapes, bool(model._supports_sdpa)


def _separate_experts(
    parameters: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors with those of experts one by one, as checkpoints store them; transformers fuses them."""
    for name, shape in parameters.items():
        if ".experts." not in name or len(shape) != 3:
            yield name, shape
            continue
        prefix, _, projection = name.rpartition(".")
        count, rows, columns = shape
        halves = projection.split("_")[:2] if projection.startswith("gate_up") else [projection]
        for expert in range(count):
            for half in halves:
                yield f"{prefix}.{expert}.{half}.weight", (rows // len(halves), columns)


def _idle(config: Any, parameters: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters of experts that a token does not pass through."""
    experts = next((number for key in EXPERTS if (number := getattr(config, key, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if experts is None or chosen is None or not 0 < chosen <= experts:
        return 0
    held = sum(prod(shape) for name, shape in parameters.items() if ".experts." in name)
    return held - held * int(chosen) // int(experts)


def _windows(config: Any, layers: int, path: Path) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if getattr(config, "kv_lora_rank", None):
        raise unsupported_layers("latent attention", path)
    kinds = getattr(config, "layer_types", None) or [FULL if window is None else SLIDING] * layers
    return layer_windows(kinds, window, path)
