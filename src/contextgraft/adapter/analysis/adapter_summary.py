"""What an adapter is and how servers take it, from its headers alone: no factor is read."""

from typing import Any

from contextgraft.adapter.analysis.server_commands import (
    adapter_commands,
    command_lines,
    to_json,
    vllm_options,
)
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdditiveEntry
from contextgraft.adapter.lora.reader_limits import reader_limits
from contextgraft.adapter.lora.vllm import CHECKED_VERSION, audit_for_vllm
from contextgraft.adapter.without_factors import targets_without_factors
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.errors import CheckpointError, first_names
from contextgraft.formats.peft import module_of
from contextgraft.rope import settings


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """Size, ranks, origin, vLLM audit and server commands of an adapter as plain JSON values."""
    sidecar = adapter.sidecar or {}
    audit = audit_for_vllm(adapter)
    return {
        "path": str(adapter.path),
        "modules": len(adapter.factors),
        "ranks": sorted({adapter.config.rank(module_of(name)) for name in adapter.factors}),
        "dense": sum(isinstance(entry, AdditiveEntry) for entry in adapter.entries.values()),
        "replaced": list(adapter.replaced),
        "ignored": list(adapter.ignored),
        "ignored_weights": list(adapter.ignored_weights),
        "renamed": dict(adapter.renamed),
        "without_factors": list(targets_without_factors(adapter)),
        "dora": adapter.config.use_dora,
        "rslora": adapter.config.use_rslora,
        "bytes": sum(info.bytes for file in adapter.files for info in file.tensors.values()),
        **adapter.origin,
        "rope": settings.to_json(adapter.rope) if adapter.rope else None,
        **{key: _recorded(adapter, key) for key in ("energy", "error")},
        "vllm": {
            "version": CHECKED_VERSION,
            "problems": audit.problems,
            "notes": audit.notes,
            "options": vllm_options(adapter, audit.max_lora_rank),
        },
        "reader_limits": reader_limits(sidecar.get("architecture", {}), adapter.factors),
        "servers": to_json(adapter_commands(adapter)),
    }


def _recorded(adapter: Adapter, key: str) -> float | None:
    """A number of the sidecar, or None; CheckpointError for anything else."""
    value = (adapter.sidecar or {}).get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise CheckpointError(
            f"has a malformed {key}", path=adapter.path / SIDECAR, expected="a number", received=repr(value)
        )
    return value


def adapter_lines(facts: dict[str, Any]) -> list[str]:
    """The description as lines of text."""
    vllm, rope = facts["vllm"], facts["rope"]
    origin = [facts[side]["name"] or "unknown" for side in ("base", "donor")]
    energy = "" if facts["energy"] is None else f", energy {facts['energy']:.4f}"
    recorded = settings.from_json(rope).description if rope else "not recorded"
    replaced = f"; {len(facts['replaced'])} replaced tensors" if facts["replaced"] else ""
    verdict = "cannot serve it, or not correctly" if vllm["problems"] else "can serve it"
    lines = [
        f"adapter       {facts['path']}",
        f"modules       {facts['modules']} of rank {', '.join(map(str, facts['ranks']))}{energy}",
        f"also          deltas of {facts['dense']} norms and biases{replaced}",
        f"from          donor {origin[1]}, base {origin[0]}",
        f"rope          {recorded}",
        f"size          {facts['bytes']:,} bytes",
    ]
    if facts["ignored"]:
        names = first_names(facts["ignored"], 5)
        lines.append(f"ignored       factors of modules that the config does not select, as by PEFT: {names}")
    if facts["ignored_weights"]:
        names = first_names(facts["ignored_weights"], 5)
        lines.append(f"ignored       weights of modules that the config does not save, as by PEFT: {names}")
    if facts["without_factors"]:
        names = first_names(facts["without_factors"], 5)
        lines.append(
            f"missing       factors of modules that the config selects, which stay unchanged: {names}"
        )
    if facts["renamed"]:
        key, expected = next(iter(facts["renamed"].items()))
        lines.append(
            f"names         {len(facts['renamed'])} tensors have names under which PEFT ignores them: "
            f"{key!r} in place of {expected!r}"
        )
    lines.append(f"vLLM          {verdict}, by the rules of vLLM {vllm['version']}")
    lines += [f"  problem     {problem}" for problem in vllm["problems"]]
    lines += [f"  note        {note}" for note in vllm["notes"]]
    lines += [f"reader        {limit}" for limit in facts["reader_limits"]]
    return [*lines, "", "to serve it, one line each:", *command_lines(facts["servers"])]
