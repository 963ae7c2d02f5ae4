"""Toy models of the Llama layout, written without transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]


def config(**changes: Any) -> dict[str, Any]:
    """config.json of the toy."""
    plain = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    return plain | changes


def weights(settings: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Weights:
    """Random weights that fit the config, tied embeddings."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    narrow = hidden * settings["num_key_value_heads"] // settings["num_attention_heads"]
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    embeddings = torch.randn(settings["vocab_size"], hidden, generator=generator)
    tensors = {"model.embed_tokens.weight": embeddings}
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, shape in shapes.items():
            tensors[f"{prefix}.{name}.weight"] = torch.randn(shape, generator=generator) * 0.05
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = torch.ones(hidden)
    tensors["model.norm.weight"] = torch.ones(hidden)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def moved(tensors: Weights, seed: int, size: float = 0.01, norms: bool = True) -> Weights:
    """The weights after some training: a delta of falling spectrum on linear weights, a shift on norms."""
    generator = torch.Generator().manual_seed(seed)
    result = dict(tensors)
    for name, tensor in tensors.items():
        if "layers" in name and tensor.ndim == 2:
            left = torch.randn(tensor.shape[0], 12, generator=generator) * torch.arange(1, 13) ** -1.0
            delta = left @ torch.randn(12, tensor.shape[1], generator=generator) * size
        elif tensor.ndim == 1 and norms:
            delta = torch.full(tensor.shape, size * 2)
        else:
            continue
        result[name] = (tensor.float() + delta).to(tensor.dtype)
    return result


def write(path: Path, tensors: Weights, settings: Mapping[str, Any], shards: int = 1) -> Path:
    """A model folder with one file or an index and shards."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(settings))
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128, "eos_token": "</s>"}))
    (path / "tokenizer.json").write_text("{}")
    if shards == 1:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, path / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
