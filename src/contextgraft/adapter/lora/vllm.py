"""Whether vLLM can serve an adapter as it is, and with which options."""

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
    """Problems: vLLM would reject the adapter or compute wrong results. Notes, and options to start vLLM."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    options: tuple[str, ...]


def audit_for_vllm(adapter: Adapter) -> VllmAudit:
    """Check keys, ranks, scalings and kinds by the rules of vLLM's PEFT loader."""
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
    problems = []
    if not served:
        problems.append(f"rank {adapter.rank} is above {SERVED_RANKS[-1]}")
    if adapter.rank > config.r:
        problems.append(
            f"rank_pattern goes to {adapter.rank}, above r = {config.r}, by which memory is reserved"
        )
    if config.peft_type != "LORA":
        problems.append(f"adapters of type {config.peft_type} are not supported")
    if config.use_dora:
        problems.append("DoRA is not supported")
    if config.modules_to_save or adapter.replaced:
        problems.append("modules_to_save and trained biases are not supported")
    if config.bias != "none":
        problems.append(f"bias {config.bias!r} is not supported")
    expected = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    differing = [name for name, entry in adapter.factors.items() if not math.isclose(entry.scaling, expected)]
    if differing:
        problems.append(
            f"{len(differing)} modules scale by another factor than alpha / r, which alone is applied"
        )
    return problems + [f"key {key!r} is not supported" for key in _odd_keys(adapter)[:1]]


def _odd_keys(adapter: Adapter) -> list[str]:
    """Keys of factors other than base_model.model.<module>.lora_A|lora_B.weight."""
    keys = [key for file in adapter.files[:1] for key in file.tensors]
    tails = (*LINEAR_KEYS, "lora_embedding_A", "lora_embedding_B")
    return [
        key for key in keys
        if FACTOR.match(key) and not (key.startswith(PREFIX) and key.endswith(tails))
    ]  # fmt: skip


def _notes(adapter: Adapter) -> list[str]:
    problems = []
    by_token = sorted(name for name in adapter.factors if rows_are_tokens(name))
    if by_token:
        problems.append(
            f"{', '.join(by_token)}: taken only for models that declare them as embedding modules"
        )
    dense = sum(isinstance(entry, AdditiveEntry) for entry in adapter.entries.values())
    if dense:
        problems.append(f"{dense} deltas of norms and biases act only when merged")
    if adapter.rope is None:
        problems.append("has no RoPE settings: set the donor's by --hf-overrides and --max-model-len")
    return problems


def describe(adapter: Adapter) -> dict[str, object]:
    """Size, ranks, origin and vLLM audit of an adapter, from its headers alone, as JSON values."""
    ranks = sorted({adapter.config.rank(module_of(name)) for name in adapter.factors})
    sidecar = adapter.sidecar or {}
    problems = audit_for_vllm(adapter)
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
        "vllm": {"problems": problems.problems, "notes": problems.notes, "options": problems.options},
    }
