"""An adapter as GGUF, as llama.cpp's `--lora` reads it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.base_model import base_model
from contextgraft.adapter.lora.llama_cpp import ARCHITECTURES, RowOrder
from contextgraft.adapter.lora.low_rank import LowRankEntry
from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.reader import NAMES
from contextgraft.errors import InputError
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import comparable, rotary_heads, rows_are_tokens
from contextgraft.rope.settings import RopeSettings

SCALING = {
    "default": gguf.RopeScalingType.NONE,
    "linear": gguf.RopeScalingType.LINEAR,
    "yarn": gguf.RopeScalingType.YARN,
    "longrope": gguf.RopeScalingType.LONGROPE,
}
TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}


def write_gguf(adapter: Adapter, architecture: Mapping[str, Any], path: Path) -> None:
    """Write the factors of an adapter; tensors of one module are in memory at a time.

    Scaling is written into lora_b; the format has no deltas of norms and biases. What llama.cpp stores in
    another way raises InputError, as in `gguf_names`.
    """
    names = gguf_names(adapter.factors, architecture, adapter.path)
    name, order = ARCHITECTURES[str(architecture["model_type"])]

    def factors() -> Iterator[tuple[str, torch.Tensor]]:
        for tensor, entry in sorted(adapter.factors.items()):
            for suffix, factor in _factors(adapter, entry):
                ordered = factor if suffix == "lora_a" else ROWS[order](factor, tensor, architecture)
                yield f"{names[tensor]}.{suffix}", ordered

    with publish_file(path, durable=False) as temporary:
        writer = gguf.GGUFWriter(temporary, name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # no further scaling by alpha / rank
        _describe(writer, adapter)
        for named, factor in factors():
            _info(writer, named, factor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, factor in factors():
            writer.write_tensor_data(factor.view(torch.uint8).numpy())
        writer.close()


def _describe(writer: gguf.GGUFWriter, adapter: Adapter) -> None:
    """The names of adapter and base, and the donor's RoPE and length, by the keys that a model has.

    llama.cpp takes RoPE from the model and from its own options: these keys are for people and programs that
    choose those options.
    """
    base = base_model(adapter)
    owner, _, name = base.name.rstrip("/").rpartition("/")
    writer.add_name(f"{adapter.origin['donor']['name']} on {name}, rank {adapter.rank}")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, name)
    if base.on_hub:
        writer.add_base_model_organization(0, owner)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base.name}")
    if base.revision:
        writer.add_base_model_version(0, base.revision)
    if adapter.rope is not None:
        _describe_rope(writer, adapter.rope)


def _describe_rope(writer: gguf.GGUFWriter, rope: RopeSettings) -> None:
    writer.add_context_length(rope.context)
    writer.add_rope_freq_base(rope.theta)
    kind = SCALING.get(rope.rope_type)
    if kind is not None:
        writer.add_rope_scaling_type(kind)
        if "factor" in rope.extra:
            writer.add_rope_scaling_factor(rope.extra["factor"])
        if "original_max_position_embeddings" in rope.extra:
            writer.add_rope_scaling_orig_ctx_len(rope.extra["original_max_position_embeddings"])


def gguf_names(
    tensors: Iterable[str], architecture: Mapping[str, Any], path: Path, *, tied: bool = False
) -> dict[str, str]:
    """The name of each tensor in llama.cpp; `path` is named in errors.

    An architecture or module that an adapter in GGUF cannot have raises InputError, and embeddings of a base
    that ties them: llama.cpp aborts on those.
    """
    model_type = str(architecture.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise InputError(
            "no GGUF adapter can be written for this architecture", path=path,
            expected=", ".join(ARCHITECTURES), received=model_type, remedy="leave --gguf out",
        )  # fmt: skip
    name = ARCHITECTURES[model_type].name
    arch = next(arch for arch, gguf_name in gguf.MODEL_ARCH_NAMES.items() if gguf_name == name)
    table = gguf.get_tensor_name_map(arch, int(architecture["num_hidden_layers"]))
    names = {
        tensor: table.get_name(module_of(tensor)) or table.get_name(f"model.{module_of(comparable(tensor))}")
        for tensor in tensors
    }
    unknown = sorted(
        tensor
        for tensor, gguf_name in names.items()
        if gguf_name is None or tensor.split(".")[-2].isdigit() or ".experts." in tensor
    )
    if unknown:
        raise InputError(
            f"module {unknown[0]!r} cannot be stored in a GGUF adapter of {name}",
            path=path, remedy="leave --gguf out, or --exclude it",
        )  # fmt: skip
    if tied and any(rows_are_tokens(tensor) for tensor in names):
        raise InputError(
            "llama.cpp aborts on an adapter of embeddings that input and output share",
            path=path, remedy="leave --gguf or --embeddings out, or convert a graft instead",
        )  # fmt: skip
    return {tensor: f"{gguf_name}.weight" for tensor, gguf_name in names.items()}


def _factors(adapter: Adapter, entry: LowRankEntry) -> Iterator[tuple[str, torch.Tensor]]:
    """lora_a and lora_b as llama.cpp multiplies them: rows of an embedding's lora_a are tokens."""
    A, B = adapter.read(entry.key_A), adapter.read(entry.key_B)
    yield "lora_a", (A.T if entry.embedding else A).contiguous()
    yield "lora_b", (B.float() * entry.scaling).to(B.dtype)


def _as_stored(rows: torch.Tensor, tensor: str, architecture: Mapping[str, Any]) -> torch.Tensor:  # noqa: ARG001
    return rows.contiguous()


def _interleaved(rows: torch.Tensor, tensor: str, architecture: Mapping[str, Any]) -> torch.Tensor:
    heads = rotary_heads(tensor, architecture)
    return (halves_to_interleaved(rows, heads) if heads else rows).contiguous()


def _separated(rows: torch.Tensor, tensor: str, architecture: Mapping[str, Any]) -> torch.Tensor:
    if not module_of(tensor).endswith(".query_key_value"):
        return rows.contiguous()
    heads = int(architecture["num_attention_heads"])
    return groups_to_separate(rows, heads, int(architecture["hidden_size"]) // heads).contiguous()


ROWS = {
    RowOrder.AS_STORED: _as_stored,
    RowOrder.INTERLEAVED: _interleaved,
    RowOrder.SEPARATED: _separated,
}


def groups_to_separate(rows: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """Rows of groups, each some heads of q, one of k and one of v, become those of all q, all k, all v.

    `width` is the number of rows of a head; the number of groups follows from that of rows.
    """
    groups = (rows.shape[0] // width - heads) // 2
    grouped = rows.reshape(groups, heads // groups + 2, width, *rows.shape[1:])
    kinds = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
    return torch.cat([kind.reshape(-1, *rows.shape[1:]) for kind in kinds])


def halves_to_interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (i, i + d/2) of each head become pairs (2i, 2i+1), the order in which llama.cpp rotates them."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _info(writer: gguf.GGUFWriter, name: str, factor: torch.Tensor) -> None:
    kind = TYPES[NAMES[factor.dtype]]
    stored = factor.view(torch.uint8).numpy()
    writer.add_tensor_info(name, stored.shape, stored.dtype, stored.nbytes, raw_dtype=kind)
