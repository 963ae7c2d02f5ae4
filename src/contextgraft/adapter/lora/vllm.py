"""Whether vLLM can serve an adapter as it is, by the rules of its loader, and with which options.

The rules are those of vLLM's `PEFTHelper` and `LoRAModel`; tests/consumers compares them with its own code.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.adapter.extract.rank_spec import SERVED_RANKS
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry
from contextgraft.adapter.lora.low_rank import RebasedEntry
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.formats.peft import ADAPTER_CONFIG, EMBEDDING_KEYS, LINEAR_KEYS, PREFIX, module_of
from contextgraft.formats.tensor_names import INPUTS, OUTPUTS, rows_are_tokens

CHECKED_VERSION = "0.33.0"
SKIPPED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")  # keys that vLLM ignores
HEADS = ("score", "classifier")  # layers of classification models, which vLLM loads as a whole
COMPILED = "_orig_mod"  # what torch.compile adds to names of modules; served models do not have it
REQUIRED = ("r", "lora_alpha", "target_modules")  # keys of adapter_config.json


@dataclass(frozen=True)
class VllmAudit:
    """Problems: vLLM would reject the adapter or compute wrong results. Notes say what to know.

    `max_lora_rank` is the value of --max-lora-rank; None if no value that vLLM accepts is large enough.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    max_lora_rank: int | None


def audit_for_vllm(adapter: Adapter) -> VllmAudit:
    """Check keys, ranks and kinds by the rules of vLLM's PEFT loader."""
    rank = max([adapter.config.r, *adapter.config.rank_pattern.values()])
    served = next((step for step in SERVED_RANKS if step >= rank), None)
    problems = [] if served is not None else [f"rank {rank} is above {SERVED_RANKS[-1]}"]
    problems += [*_problems_of_config(adapter), *_problems_of_keys(adapter)]
    return VllmAudit(tuple(problems), tuple(_notes(adapter)), served)


def _problems_of_config(adapter: Adapter) -> Iterator[str]:
    config, written = adapter.config, read_json(adapter.path / ADAPTER_CONFIG)
    missing = [key for key in REQUIRED if key not in written]
    if missing:
        yield f"adapter_config.json lacks {', '.join(missing)}"
    if config.peft_type != "LORA":
        yield f"adapters of type {config.peft_type} are not supported"
    if config.use_dora:
        yield "DoRA is not supported"
    heads = _saved_heads(adapter)
    replaced = sum(map(_is_replacement, adapter.entries.values())) - len(heads)
    if replaced or not set(config.modules_to_save or ()) <= set(HEADS):
        yield "trained biases and modules_to_save, but for score and classifier, are not supported"
    if len({_layer(name) for name in heads}) > 1:
        yield "score and classifier together are not supported"
    if config.bias != "none":
        yield f"bias {config.bias!r} is not supported"
    if written.get("lora_bias"):
        yield "biases of lora_B (lora_bias) are not supported"
    if _half_of_a_tied_head(adapter, written):
        yield "the base ties its embeddings: only the input embeddings would change, not the output"


def _saved_heads(adapter: Adapter) -> list[str]:
    """Names of the tensors of a classification layer that the adapter stores in full."""
    saved = [name for name, entry in adapter.entries.items() if _is_replacement(entry)]
    named = adapter.config.modules_to_save or ()
    return [name for name in saved if _layer(name) in HEADS and _layer(name) in named]


def _layer(name: str) -> str:
    """The layer of a weight or bias, by the last part of its name."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _is_replacement(entry: AdapterEntry) -> bool:
    return entry.replaces and not isinstance(entry, RebasedEntry)


def _half_of_a_tied_head(adapter: Adapter, written: Mapping[str, Any]) -> bool:
    changed = {module_of(name).rpartition(".")[2] for name in adapter.factors}
    return bool(written.get("ensure_weight_tying")) and bool(
        changed.intersection(INPUTS) or changed.intersection(OUTPUTS)
    )


def _problems_of_keys(adapter: Adapter) -> Iterator[str]:
    """The first key that vLLM's loader rejects, and the first that it would apply to no module."""
    keys = [key for key in adapter.files[0].tensors if not key.endswith(SKIPPED)]
    modules = {key: _module_in_vllm(key) for key in keys}
    yield from [f"key {key!r} is not supported" for key, module in modules.items() if module is None][:1]
    yield from [
        f"factors of {module!r}, which the config does not select, are loaded: PEFT ignores them"
        for module in adapter.ignored
    ][:1]
    known = {module_of(name) for name in adapter.factors if COMPILED not in name.split(".")}
    known.update(adapter.ignored, map(_layer, _saved_heads(adapter)))
    lost = [module for module in modules.values() if module is not None and module not in known]
    yield from [
        f"module {module!r} would be applied to nothing: another name is expected" for module in lost
    ][:1]


def _module_in_vllm(key: str) -> str | None:
    """The module that vLLM takes a key of the weights file for; None if it rejects the key."""
    name = key.replace(PREFIX, "") if key.startswith(PREFIX) else key
    for tail in (*LINEAR_KEYS, *EMBEDDING_KEYS):
        if name.endswith(f".{tail}"):
            return name.removesuffix(f".{tail}")
    return _layer(name) if name.endswith((".weight", ".bias")) and _layer(name) in HEADS else None


def _notes(adapter: Adapter) -> list[str]:
    notes = []
    by_token = sorted(name for name in adapter.factors if rows_are_tokens(name))
    if by_token:
        notes.append(f"{', '.join(by_token)}: taken only for models that declare them as embedding modules")
    expected = adapter.config.lora_alpha / (
        math.sqrt(adapter.config.r) if adapter.config.use_rslora else adapter.config.r
    )
    if any(not math.isclose(entry.scaling, expected) for entry in adapter.factors.values()):
        notes.append(
            "rank_pattern and alpha_pattern change the scaling of modules: older vLLM may ignore them"
        )
    if _saved_heads(adapter):
        notes.append("its classification layer is loaded by servers of a classification model only")
    dense = sum(isinstance(entry, AdditiveEntry) for entry in adapter.entries.values())
    if dense:
        notes.append(f"{dense} deltas of norms and biases act only when merged")
    stored = sorted(name for name, entry in adapter.entries.items() if isinstance(entry, RebasedEntry))
    if stored:
        notes.append(
            f"the adapter's own copies of {', '.join(stored)} are not loaded: right only if the served model "
            "has the same weights"
        )
    if adapter.rope is None:
        notes.append("has no RoPE settings: set the donor's by --hf-overrides and --max-model-len")
    return notes
