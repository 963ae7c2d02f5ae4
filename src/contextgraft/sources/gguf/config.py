"""config.json and generation_config.json of a Llama from the metadata of a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import input_embedding, output_embedding
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
    hidden = int(require(metadata, "llama.embedding_length", path))
    heads = int(require(metadata, "llama.attention.head_count", path))
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
        "attention_dropout": 0.0,
        "dtype": dtype,
        "head_dim": int(metadata.get("llama.attention.key_length", hidden // heads)),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": int(require(metadata, "llama.feed_forward_length", path)),
        "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in shapes,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": int(require(metadata, "llama.block_count", path)),
        "num_key_value_heads": int(metadata.get("llama.attention.head_count_kv", heads)),
        "rms_norm_eps": shortest(require(metadata, "llama.attention.layer_norm_rms_epsilon", path)),
        "tie_word_embeddings": output_embedding(shapes) is None,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": shapes[embedding][0],
        **special_tokens(metadata),
    }
    rope = RopeSettings(
        theta=shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        max_positions=int(require(metadata, "llama.context_length", path)),
        rope_type="default",
        extra={},
    )
    return apply_rope(config, rope)


def special_tokens(metadata: Metadata) -> dict[str, int]:
    """Ids of the special tokens, by the names config.json uses."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    keys = {name: f"tokenizer.ggml.{ggml}_token_id" for name, ggml in names.items()}
    return {name: int(metadata[key]) for name, key in keys.items() if key in metadata}


def generation_config(metadata: Metadata) -> dict[str, Any]:
    """generation_config.json: the special tokens, no sampling settings."""
    return {"_from_model_config": True, **special_tokens(metadata)}
