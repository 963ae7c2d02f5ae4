"""Tensors and attention windows of Llama-like models, computed from config.json without importing torch.

The formulas follow the model classes of transformers; a test compares every family with the class itself.
Shapes are (rows, columns), as in the checkpoint.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from contextgraft.errors import CheckpointError
from contextgraft.planning.shapes.config_values import (
    FULL,
    MAX_LAYERS,
    SLIDING,
    SOFT_CAP,
    layer_windows,
    positive_integer,
)

Config = Mapping[str, Any]
Tensors = dict[str, tuple[int, ...]]
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# a config without model_type and with no other keys than these is that of a Llama model
LLAMA_KEYS = {
    *REQUIRED,
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta"),
    *("rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act"),
    *("rms_norm_eps", "initializer_range", "attention_dropout", "pretraining_tp", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "transformers_version"),
}
GEMMA_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


class Sizes(NamedTuple):
    """Sizes that the tensors of a layer depend on; the config and its file for the rest."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocabulary: int
    config: Config
    path: Path


class Family(NamedTuple):
    """One model type: tensors of a layer, type of each layer, and transformers' defaults of optional keys."""

    layer: Callable[[Sizes], Tensors]
    kinds: Callable[[Sizes], list[str]]
    defaults: Config


class Formula(NamedTuple):
    """What the formulas say about a model."""

    sizes: Sizes
    tensors: Tensors
    windows: tuple[int | None, ...]
    capped: bool
    eager: bool


def evaluate_formula(config: Config, path: Path) -> Formula | None:
    """Sizes, tensors and windows; None for other families and for configs that rely on default sizes."""
    bare = set(REQUIRED) <= set(config) <= LLAMA_KEYS
    if bare:
        logging.getLogger(__name__).warning("%s: no model_type; planned as a Llama model", path)
    family = FAMILIES.get("llama" if bare else str(config.get("model_type")))
    if family is None or any(key not in config for key in REQUIRED):
        return None
    sizes = _sizes({**family.defaults, **config}, path)
    kinds = family.kinds(sizes)
    windows = layer_windows(kinds, sizes.config.get("sliding_window"), path)
    eager = SOFT_CAP in family.defaults  # other classes ignore the key
    capped = eager and sizes.config[SOFT_CAP] is not None
    return Formula(sizes, _tensors(family.layer(sizes), sizes), windows, capped, eager)


def _sizes(config: Config, path: Path) -> Sizes:
    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        return positive_integer(default if value is None else value, key, path)

    layers = positive_integer(config["num_hidden_layers"], "num_hidden_layers", path, MAX_LAYERS)
    heads = size("num_attention_heads")
    return Sizes(
        hidden=size("hidden_size"),
        intermediate=size("intermediate_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", size("hidden_size") // heads),
        layers=layers,
        vocabulary=size("vocab_size"),
        config=config,
        path=path,
    )


def _tensors(layer: Tensors, sizes: Sizes) -> Tensors:
    rows = (sizes.vocabulary, sizes.hidden)
    tensors: Tensors = {"model.embed_tokens.weight": rows, "model.norm.weight": (sizes.hidden,)}
    if not sizes.config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = rows
    for number in range(sizes.layers):
        tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return tensors


def _linear(name: str, rows: int, columns: int, bias: bool = False) -> Tensors:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def _norms(s: Sizes, *more: str) -> Tensors:
    return {f"{name}.weight": (s.hidden,) for name in ("input_layernorm", "post_attention_layernorm", *more)}


def _head_norms(s: Sizes) -> Tensors:
    return {f"self_attn.{name}.weight": (s.head_dim,) for name in ("q_norm", "k_norm")}


def _attention(s: Sizes, bias: bool, output_bias: bool | None = None) -> Tensors:
    wide, narrow = s.heads * s.head_dim, s.kv_heads * s.head_dim
    return (
        _linear("self_attn.q_proj", wide, s.hidden, bias)
        | _linear("self_attn.k_proj", narrow, s.hidden, bias)
        | _linear("self_attn.v_proj", narrow, s.hidden, bias)
        | _linear("self_attn.o_proj", s.hidden, wide, bias if output_bias is None else output_bias)
    )


def _mlp(s: Sizes, bias: bool = False) -> Tensors:
    return (
        _linear("mlp.gate_proj", s.intermediate, s.hidden, bias)
        | _linear("mlp.up_proj", s.intermediate, s.hidden, bias)
        | _linear("mlp.down_proj", s.hidden, s.intermediate, bias)
    )


def llama_layer(s: Sizes) -> Tensors:
    """Llama and Mistral: biases only where the config sets them."""
    bias, mlp_bias = bool(s.config.get("attention_bias")), bool(s.config.get("mlp_bias"))
    return _attention(s, bias) | _mlp(s, mlp_bias) | _norms(s)


def mistral_layer(s: Sizes) -> Tensors:
    """Mistral: no biases."""
    return _attention(s, bias=False) | _mlp(s) | _norms(s)


def qwen2_layer(s: Sizes) -> Tensors:
    """Qwen2: biases on q, k and v."""
    return _attention(s, bias=True, output_bias=False) | _mlp(s) | _norms(s)


def qwen3_layer(s: Sizes) -> Tensors:
    """Qwen3: norms of each head's queries and keys."""
    return _attention(s, bool(s.config.get("attention_bias"))) | _head_norms(s) | _mlp(s) | _norms(s)


def gemma_layer(s: Sizes) -> Tensors:
    """Gemma 1: as Llama, with a head size of its own."""
    return _attention(s, bool(s.config.get("attention_bias"))) | _mlp(s) | _norms(s)


def gemma2_layer(s: Sizes) -> Tensors:
    """Gemma 2: two norms more."""
    return _attention(s, bool(s.config.get("attention_bias"))) | _mlp(s) | _norms(s, *GEMMA_NORMS)


def gemma3_layer(s: Sizes) -> Tensors:
    """Gemma 3: as Gemma 2, with norms of each head's queries and keys."""
    return gemma2_layer(s) | _head_norms(s)


def phi3_layer(s: Sizes) -> Tensors:
    """Phi-3: q, k, v in one matrix, gate and up in another."""
    wide, narrow = s.heads * s.head_dim, s.kv_heads * s.head_dim
    return (
        _linear("self_attn.qkv_proj", wide + 2 * narrow, s.hidden)
        | _linear("self_attn.o_proj", s.hidden, wide)
        | _linear("mlp.gate_up_proj", 2 * s.intermediate, s.hidden)
        | _linear("mlp.down_proj", s.hidden, s.intermediate)
        | _norms(s)
    )


def full_attention(s: Sizes) -> list[str]:
    """Every layer sees all tokens."""
    return [FULL] * s.layers


def one_window(s: Sizes) -> list[str]:
    """Every layer has the window, if the config has one."""
    return [FULL if s.config.get("sliding_window") is None else SLIDING] * s.layers


def upper_windows(s: Sizes) -> list[str]:
    """Qwen: layers from `max_window_layers` on have the window, where `use_sliding_window` is set."""
    if not s.config["use_sliding_window"] or s.config["sliding_window"] is None:
        return full_attention(s)
    first = s.config["max_window_layers"]
    if first != 0:
        first = positive_integer(first, "max_window_layers", s.path)
    return _listed(s) or [SLIDING if layer >= first else FULL for layer in range(s.layers)]


def periodic_windows(s: Sizes) -> list[str]:
    """Gemma 2 and 3: every n-th layer is full, the others have the window."""
    period = positive_integer(s.config["sliding_window_pattern"], "sliding_window_pattern", s.path)
    return _listed(s) or [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(s.layers)]


def _listed(s: Sizes) -> list[str] | None:
    """`layer_types`, if the config has it."""
    kinds = s.config.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != s.layers:
        raise CheckpointError(
            "has no usable layer_types",
            path=s.path,
            expected=f"a list of {s.layers}, one for each layer",
            received=str(kinds)[:40],
        )
    return kinds


UNTIED = {"tie_word_embeddings": False}
QWEN = UNTIED | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
QWEN |= {"num_key_value_heads": 32}
GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
WINDOWED = GEMMA | {"num_key_value_heads": 4, "sliding_window": 4096}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(llama_layer, full_attention, UNTIED),
    "mistral": Family(mistral_layer, one_window, UNTIED | {"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family(qwen2_layer, upper_windows, QWEN),
    "qwen3": Family(qwen3_layer, upper_windows, QWEN | {"head_dim": 128}),
    "gemma": Family(gemma_layer, full_attention, GEMMA | {"num_key_value_heads": 16}),
    "gemma2": Family(
        gemma2_layer, periodic_windows, WINDOWED | {"sliding_window_pattern": 2, SOFT_CAP: 50.0}
    ),
    "gemma3_text": Family(gemma3_layer, periodic_windows, WINDOWED | {"sliding_window_pattern": 6}),
    "phi3": Family(phi3_layer, one_window, UNTIED),
}
