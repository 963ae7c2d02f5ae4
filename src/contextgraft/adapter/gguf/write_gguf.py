"""An adapter as GGUF, as llama.cpp's `--lora` reads it."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import torch

from contextgraft.adapter.gguf.rows import ORDERS, selected
from contextgraft.adapter.gguf.weights import GgufLayout, GgufWeight, gguf_layout
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.base_model import base_model
from contextgraft.adapter.lora.low_rank import LowRankEntry, StackedEntry
from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import NAMES
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


def write_gguf(adapter: Adapter, base: ModelFolder, path: Path) -> None:
    """Write the factors of an adapter on `base`; tensors of one weight are in memory at a time.

    Scaling is written into lora_b; the format has no deltas of norms and biases. What llama.cpp stores in
    another way raises InputError, as in `gguf_layout`.
    """
    layout = gguf_layout(adapter.factors, base)
    weights = sorted(layout.weights, key=lambda weight: weight.name)

    def factors() -> Iterator[tuple[str, torch.Tensor]]:
        for weight in weights:
            for suffix, factor in _factors(adapter, weight, layout):
                yield f"{weight.name}.{suffix}", factor

    with publish_file(path, durable=False) as temporary:
        writer = gguf.GGUFWriter(temporary, layout.architecture.name)
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
    if rope.context:
        writer.add_context_length(rope.context)
    writer.add_rope_freq_base(rope.theta)
    kind = SCALING.get(rope.rope_type)
    if kind is not None:
        writer.add_rope_scaling_type(kind)
        if "factor" in rope.extra:
            writer.add_rope_scaling_factor(rope.extra["factor"])
        if "original_max_position_embeddings" in rope.extra:
            writer.add_rope_scaling_orig_ctx_len(rope.extra["original_max_position_embeddings"])


def _factors(adapter: Adapter, weight: GgufWeight, layout: GgufLayout) -> Iterator[tuple[str, torch.Tensor]]:
    """lora_a and lora_b as llama.cpp multiplies them: rows of an embedding's lora_a are tokens."""
    pairs = {number: _pair(adapter, adapter.factors[name]) for number, name in weight.tensors.items()}
    if weight.experts:
        unchanged = tuple(torch.zeros_like(factor) for factor in next(iter(pairs.values())))
        experts = [pairs.get(number, unchanged) for number in range(weight.experts)]
        A, B = (torch.stack(list(factors)) for factors in zip(*experts, strict=True))
    else:
        A, B = pairs[0]
    if weight.swapped:
        A, B = B.transpose(-1, -2), A.transpose(-1, -2)
    yield "lora_a", A.contiguous()
    if B.dim() == 2:  # experts have no heads
        B = ORDERS[layout.architecture.rows](B, weight.tensors[0], layout.config)
    yield "lora_b", selected(B, weight.rows).contiguous()


def _pair(adapter: Adapter, entry: LowRankEntry) -> tuple[torch.Tensor, torch.Tensor]:
    """Both factors, scaling in the second; of stacked experts [experts, rank, in], [experts, out, rank]."""
    A, B = adapter.read(entry.key_A), adapter.read(entry.key_B)
    B = (B.float() * entry.scaling).to(B.dtype)
    if isinstance(entry, StackedEntry):
        return A.reshape(entry.experts, -1, A.shape[1]), B.reshape(len(B), -1, entry.experts).permute(2, 0, 1)
    return (A.T if entry.embedding else A), B


def _info(writer: gguf.GGUFWriter, name: str, factor: torch.Tensor) -> None:
    kind = TYPES[NAMES[factor.dtype]]
    stored = factor.view(torch.uint8).numpy()
    writer.add_tensor_info(name, stored.shape, stored.dtype, stored.nbytes, raw_dtype=kind)
