"""An adapter as GGUF, as llama.cpp's `--lora` reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.llama_cpp import ARCHITECTURES
from contextgraft.adapter.lora.low_rank import LowRankEntry
from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.reader import NAMES
from contextgraft.errors import InputError
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import rotary_heads

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}


def write_gguf(adapter: Adapter, architecture: dict[str, Any], path: Path) -> None:
    """Write the factors of an adapter; tensors of one module are in memory at a time.

    Scaling is written into lora_b; the format has no deltas of norms and biases. An architecture or module
    that llama.cpp stores in another way raises InputError.
    """
    model_type = str(architecture.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise InputError(
            "no GGUF adapter can be written for this architecture",
            expected=", ".join(ARCHITECTURES), received=model_type, remedy="leave --gguf out",
        )  # fmt: skip
    name, interleaved = ARCHITECTURES[model_type]
    names = _names(adapter, name, int(architecture["num_hidden_layers"]))
    heads = {
        tensor: rotary_heads(tensor, architecture) if interleaved else None for tensor in adapter.factors
    }
    with publish_file(path, durable=False) as temporary:
        writer = gguf.GGUFWriter(temporary, name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # no further scaling by alpha / rank
        for tensor, entry in sorted(adapter.factors.items()):
            for suffix, factor in _factors(adapter, entry, heads[tensor]):
                _info(writer, f"{names[tensor]}.{suffix}", factor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, entry in sorted(adapter.factors.items()):
            for _, factor in _factors(adapter, entry, heads[tensor]):
                writer.write_tensor_data(factor.view(torch.uint8).numpy())
        writer.close()


def _names(adapter: Adapter, name: str, layers: int) -> dict[str, str]:
    arch = next(arch for arch, gguf_name in gguf.MODEL_ARCH_NAMES.items() if gguf_name == name)
    table = gguf.get_tensor_name_map(arch, layers)
    names = {tensor: table.get_name(module_of(tensor)) for tensor in adapter.factors}
    unknown = sorted(
        tensor for tensor, gguf_name in names.items() if gguf_name is None or tensor.split(".")[-2].isdigit()
    )
    if unknown or any(".experts." in tensor for tensor in names):
        raise InputError(
            f"module {unknown[0] if unknown else 'experts'!r} cannot be stored in a GGUF adapter of {name}",
            path=adapter.path, remedy="leave --gguf out, or --exclude it",
        )  # fmt: skip
    return {tensor: f"{gguf_name}.weight" for tensor, gguf_name in names.items()}


def _factors(adapter: Adapter, entry: LowRankEntry, heads: int | None) -> Iterator[tuple[str, torch.Tensor]]:
    """lora_a and lora_b as llama.cpp multiplies them: rows of an embedding's lora_a are tokens."""
    A, B = adapter.read(entry.key_A), adapter.read(entry.key_B)
    yield "lora_a", (A.T if entry.embedding else A).contiguous()
    scaled = (B.float() * entry.scaling).to(B.dtype)
    yield "lora_b", (halves_to_interleaved(scaled, heads) if heads else scaled).contiguous()


def halves_to_interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (i, i + d/2) of each head become pairs (2i, 2i+1), the order in which llama.cpp rotates them."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _info(writer: gguf.GGUFWriter, name: str, factor: torch.Tensor) -> None:
    kind = TYPES[NAMES[factor.dtype]]
    stored = factor.view(torch.uint8).numpy()
    writer.add_tensor_info(name, stored.shape, stored.dtype, stored.nbytes, raw_dtype=kind)
