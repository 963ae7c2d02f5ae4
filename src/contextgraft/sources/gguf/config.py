"""config.json and generation_config.json of a Llama from the metadata of a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import input_embedding, output_embedding, rotary_heads
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.settings import RopeSettings

Metadata = Mapping[str, Any]


def shortest(value: float) -> float:
    """The shortest decimal with the same float32 value: 9.99999974e-06 becomes 1e-05."""
    return float(str(np.float32(value)))


def require(metadata: Metadata, key: str, path: Path) -> Any:
    """Value of a required metadata key."""
    if key not in metadata:
        raise CheckpointError(
            f"metadata key {key!r} is missing", path=path, remedy="is this a complete GGUF model?"
        )
    return metadata[key]


def positive(metadata: Metadata, key: str, path: Path) -> int:
    """Value of a required metadata key that is a positive whole number."""
    value = require(metadata, key, path)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(
            f"metadata key {key!r} is not a positive whole number", path=path, received=repr(value)[:80]
        )
    return value


def check_architecture(metadata: Metadata, path: Path) -> None:
    """CheckpointError for a file that cannot be converted to a Llama checkpoint without guesses."""
    architecture = require(metadata, "general.architecture", path)
    if architecture != "llama":
        raise CheckpointError(
            "unsupported architecture in the GGUF file", path=path, expected="llama", received=architecture
        )
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise CheckpointError(
            "the GGUF file uses RoPE scaling, and GGUF does not store all of its settings",
            path=path,
            expected="llama.rope.scaling.type none",
            received=scaling,
            remedy="fetch the safetensors of this model instead",
        )


def model_config(
    metadata: Metadata, shapes: Mapping[str, tuple[int, ...]], dtype: str, path: Path
) -> dict[str, Any]:
    """config.json of the model; `shapes` of its tensors by their Hugging Face names."""
    embedding = input_embedding(shapes)
    if embedding is None:
        raise CheckpointError(
            "the token embeddings are missing", path=path, remedy="is this a complete GGUF model?"
        )
    hidden = positive(metadata, "llama.embedding_length", path)
    heads = positive(metadata, "llama.attention.head_count", path)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
        "attention_dropout": 0.0,
        "dtype": dtype,
        "head_dim": _or(metadata, "llama.attention.key_length", hidden // heads, path),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": positive(metadata, "llama.feed_forward_length", path),
        "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in shapes,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": positive(metadata, "llama.block_count", path),
        "num_key_value_heads": _or(metadata, "llama.attention.head_count_kv", heads, path),
        "rms_norm_eps": shortest(require(metadata, "llama.attention.layer_norm_rms_epsilon", path)),
        "tie_word_embeddings": output_embedding(shapes) is None,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": shapes[embedding][0],
        **special_tokens(metadata, shapes[embedding][0], path),
    }
    _check_shapes(config, shapes, embedding, path)
    rope = RopeSettings(
        theta=shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        max_positions=positive(metadata, "llama.context_length", path),
        rope_type="default",
        extra={},
    )
    return apply_rope(config, rope)


def _or(metadata: Metadata, key: str, default: int, path: Path) -> int:
    return positive(metadata, key, path) if key in metadata else default


def _check_shapes(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], embedding: str, path: Path
) -> None:
    """Raise CheckpointError where the rows of a tensor are not those of the metadata."""
    for name, shape in shapes.items():
        heads = rotary_heads(name, config)
        if heads is not None and shape[0] != heads * config["head_dim"]:
            raise CheckpointError(
                f"tensor {name!r} does not fit the metadata", path=path,
                expected=f"{heads} heads of {config['head_dim']} rows", received=f"shape {list(shape)}",
            )  # fmt: skip
    if shapes[embedding][1:] != (config["hidden_size"],):
        raise CheckpointError(
            "the token embeddings do not fit the metadata", path=path,
            expected=f"rows of {config['hidden_size']}", received=f"shape {list(shapes[embedding])}",
        )  # fmt: skip


def special_tokens(metadata: Metadata, vocabulary: int, path: Path) -> dict[str, int]:
    """Ids of the special tokens, by the names config.json uses; CheckpointError for one without a row."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    keys = {name: f"tokenizer.ggml.{ggml}_token_id" for name, ggml in names.items()}
    ids = {name: metadata[key] for name, key in keys.items() if key in metadata}
    for name, number in ids.items():
        if type(number) is not int or not 0 <= number < vocabulary:
            raise CheckpointError(
                f"{name} is not a token of the vocabulary", path=path,
                expected=f"0 to {vocabulary - 1}", received=repr(number)[:80],
            )  # fmt: skip
    return ids


def generation_config(metadata: Metadata, vocabulary: int, path: Path) -> dict[str, Any]:
    """generation_config.json: the special tokens, no sampling settings."""
    return {"_from_model_config": True, **special_tokens(metadata, vocabulary, path)}
