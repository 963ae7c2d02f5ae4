"""Tensors of a GGUF Llama under their Hugging Face names, dequantised one at a time."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt
import torch

from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import rotary_heads

Float32 = npt.NDArray[np.float32]

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hub_name(name: str, path: Path) -> str:
    """Hugging Face name of a tensor: `model.layers.3.self_attn.q_proj.weight` for `blk.3.attn_q.weight`.

    CheckpointError for an unknown name.
    """
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in LAYER:
        return f"model.layers.{layer[1]}.{LAYER[layer[2]]}.{layer[3]}"
    top = re.fullmatch(r"(\w+)\.(weight|bias)", name)
    if top and top[1] in TOP:
        return f"{TOP[top[1]]}.{top[2]}"
    raise CheckpointError(
        f"tensor {name!r} does not belong to a Llama checkpoint",
        path=path,
        remedy="fetch the safetensors of this model instead",
    )


def interleaved_to_halves(weight: Float32, heads: int) -> Float32:
    """Undo llama.cpp's order of q and k rows: pairs (2i, 2i+1) of each head become (i, i + d/2).

    `weight`: (heads * d, ...). The inverse of `permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    size = weight.shape[0] // heads // 2
    return weight.reshape(heads, size, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def shape_of(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    """Shape of a tensor, rows first; GGUF lists the fastest dimension first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def stored(tensor: gguf.ReaderTensor, file: BinaryIO) -> gguf.ReaderTensor:
    """The tensor with its data read from the file, see GGUFHeader; EOFError if it was cut."""
    file.seek(int(tensor.data_offset))
    data = file.read(tensor.n_bytes)
    if len(data) < tensor.n_bytes:
        raise EOFError(f"file ends within tensor {tensor.name!r}")
    return tensor._replace(data=np.frombuffer(data, tensor.data.dtype).reshape(tensor.data.shape))


def dequantise(tensor: gguf.ReaderTensor, name: str, config: Mapping[str, Any]) -> torch.Tensor:
    """One tensor in float32, dequantised by the gguf package, with rows in the order of Hugging Face."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    weight, heads = values.reshape(shape_of(tensor)), rotary_heads(name, config)
    if heads is not None:
        weight = interleaved_to_halves(weight, heads)
    return torch.from_numpy(np.array(weight, order="C"))
