"""Whether an inference server would take an adapter as it is, and how it must be started."""

import json
import math
from dataclasses import dataclass

from contextgraft.adapter.extract.rank_spec import SERVED_RANKS
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdditiveEntry
from contextgraft.adapter.lora.low_rank import FACTOR
from contextgraft.formats.peft import LINEAR_KEYS, PREFIX, module_of
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.rope import settings


@dataclass(frozen=True)
class VllmAudit:
    """What vLLM would refuse or get wrong, what it would not know, and its options for this adapter."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    options: tuple[str, ...]


def audit_for_vllm(adapter: Adapter) -> VllmAudit:
    """Judge keys, ranks, scalings and kinds by the rules of vLLM's PEFT loader."""
    steps = [step for step in SERVED_RANKS if step >= adapter.rank]
    options = ["--enable-lora", *([f"--max-lora-rank {steps[0]}"] if steps else [])]
    if adapter.rope is not None:
        rope = {"rope_type": adapter.rope.rope_type, "rope_theta": adapter.rope.theta, **adapter.rope.extra}
        override = {"rope_parameters": rope, "max_position_embeddings": adapter.rope.max_positions}
        options += [
            f"--hf-overrides '{json.dumps(override)}'",
            f"--max-model-len {adapter.rope.max_positions}",
        ]
    return VllmAudit(tuple(_problems(adapter, bool(steps))), tuple(_notes(adapter)), tuple(options))


def _problems(adapter: Adapter, served: bool) -> list[str]:
    config = adapter.config
    found = []
    if not served:
        found.append(f"rank {adapter.rank} is above {SERVED_RANKS[-1]}")
    if adapter.rank > config.r:
        found.append(
            f"rank_pattern goes to {adapter.rank}, above r = {config.r}, by which memory is reserved"
        )
    if config.peft_type != "LORA":
        found.append(f"adapters of type {config.peft_type} are not supported")
    if config.use_dora:
        found.append("DoRA is not supported")
    if config.modules_to_save or adapter.replaced:
        found.append("modules_to_save and trained biases are not supported")
    if config.bias != "none":
        found.append(f"bias {config.bias!r} is not supported")
    expected = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    odd = [name for name, entry in adapter.factors.items() if not math.isclose(entry.scaling, expected)]
    if odd:
        found.append(f"{len(odd)} modules scale by another factor than alpha / r, which alone is applied")
    return found + [f"key {key!r} would not be understood" for key in _odd_keys(adapter)[:1]]


def _odd_keys(adapter: Adapter) -> list[str]:
    """Keys of factors that are not base_model.model.<module>.lora_A|lora_B.weight."""
    keys = [key for file in adapter.files[:1] for key in file.tensors]
    tails = (*LINEAR_KEYS, "lora_embedding_A", "lora_embedding_B")
    return [
        key for key in keys
        if FACTOR.match(key) and not (key.startswith(PREFIX) and key.endswith(tails))
    ]  # fmt: skip


def _notes(adapter: Adapter) -> list[str]:
    found = []
    by_token = sorted(name for name in adapter.factors if rows_are_tokens(name))
    if by_token:
        found.append(f"{', '.join(by_token)}: taken only for models that declare them as embedding modules")
    whole = sum(isinstance(entry, AdditiveEntry) for entry in adapter.entries.values())
    if whole:
        found.append(f"{whole} deltas of norms and biases act only when merged")
    if adapter.rope is None:
        found.append("says nothing of RoPE: set the donor's by --hf-overrides and --max-model-len")
    return found


def describe(adapter: Adapter) -> dict[str, object]:
    """What an adapter is, from its headers alone."""
    ranks = sorted({adapter.config.rank(module_of(name)) for name in adapter.factors})
    sidecar = adapter.sidecar or {}
    found = audit_for_vllm(adapter)
    return {
        "path": str(adapter.path),
        "modules": len(adapter.factors),
        "ranks": ranks,
        "dense": sum(isinstance(entry, AdditiveEntry) for entry in adapter.entries.values()),
        "replaced": list(adapter.replaced),
        "dora": adapter.config.use_dora,
        "rslora": adapter.config.use_rslora,
        "bytes": sum(info.bytes for file in adapter.files for info in file.tensors.values()),
        **adapter.origin,
        "rope": settings.to_json(adapter.rope) if adapter.rope else None,
        "energy": sidecar.get("energy"),
        "error": sidecar.get("error"),
        "vllm": {"problems": found.problems, "notes": found.notes, "options": found.options},
    }
