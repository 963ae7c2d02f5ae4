"""From finished steps to adapter folders: factors of one rank, dense deltas, and the sidecar that says so."""

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from contextgraft.adapter import peft_format
from contextgraft.adapter.architecture import Kind, describe
from contextgraft.adapter.pair import Pair
from contextgraft.checkpoint.identity import SIDECAR, identity, sidecar
from contextgraft.checkpoint.journal import Journal
from contextgraft.checkpoint.layout import open_tensors
from contextgraft.checkpoint.publish import write_json
from contextgraft.checkpoint.reader import DTYPES, read_rows, read_tensor
from contextgraft.checkpoint.writer import Spec, order, write_tensors
from contextgraft.errors import MismatchError
from contextgraft.rope import settings

UNDO = (
    "merge this adapter into the graft with the negated scale, then restore `rope` from its manifest; "
    "this is exact only to the rounding of the stored dtype: keep the target"
)


def assemble(pair: Pair, ranks: Sequence[int], journal: Journal) -> dict[int, dict[str, Any]]:
    """Assemble every rank's folder from the finished steps."""
    records = {name: journal.get(name) or {} for names in pair.names.values() for name in names}
    linear = {name: records[name] for name in pair.names[Kind.LINEAR]}
    if not any("squares" in record for record in linear.values()):
        raise MismatchError(
            "has the same linear weights as the base: there is nothing to extract",
            path=pair.donor.path,
            received=pair.base.path,
        )
    common = _common(pair, records)
    sidecars = {}
    for rank in ranks:
        folder = journal.work / f"r{rank}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _write_factors(folder, pair, rank, journal, linear)
        _write_dense(folder, pair, journal, common["dense"])
        sidecars[rank] = sidecar("adapter", rank=rank, **common, **_energies(linear, rank))
        base_name = common["base"]["source"] or common["base"]["name"]
        ranks_used = {
            peft_format.module_of(name): min(rank, *pair.base[name].shape)
            for name in linear
            if "squares" in linear[name]
        }
        modules = [peft_format.module_of(name) for name in linear]
        write_json(folder / peft_format.CONFIG, peft_format.config(rank, ranks_used, modules, base_name))
        write_json(folder / SIDECAR, sidecars[rank])
    return sidecars


def _common(pair: Pair, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the sidecars of all ranks say alike."""
    base = identity(pair.base, {name: record["base_digest"] for name, record in records.items()})
    donor = identity(pair.donor, {name: record["donor_digest"] for name, record in records.items()})
    rope = {"base": settings.read(pair.base.config), "donor": settings.read(pair.donor.config)}
    changed = {name: record for name, record in records.items() if record["delta_norm"]}
    facts = {name: {key: changed[name][key] for key in ("delta_norm", "relative_delta")} for name in changed}
    return {
        "base": base,
        "donor": donor,
        "architecture": describe(pair.base.config),
        "rope": {side: settings.to_json(value) for side, value in rope.items()},
        "max_length": rope["donor"].max_positions,
        "dense": {name: facts[name] for name in pair.names[Kind.DENSE] if name in facts},
        "ignored": {name: facts[name] for name in pair.names[Kind.IGNORED] if name in facts}
        | dict.fromkeys(pair.unpaired, "not in both models, or of another shape"),
        "undo": UNDO,
    }


def _energies(linear: dict[str, dict[str, Any]], rank: int) -> dict[str, Any]:
    """Energy and error of every module, and of all, at this rank; the whole norms are exact."""
    modules = {}
    captured = whole = 0.0
    for name, record in linear.items():
        total = record["delta_norm"] ** 2
        part = min(math.fsum(record.get("squares", [])[:rank]), total)
        energy = part / total if total else 1.0
        modules[peft_format.module_of(name)] = {
            "rank": len(record.get("squares", [])[:rank]),
            "energy": energy,
            "error": math.sqrt(1 - energy),
            "delta_norm": record["delta_norm"],
            "relative_delta": record["relative_delta"],
        }
        captured, whole = captured + part, whole + total
    energy = captured / whole
    return {
        "modules": modules,
        "energy": energy,
        "error": math.sqrt(1 - energy),
        "delta_norm": math.sqrt(whole),
    }


def _write_factors(
    folder: Path, pair: Pair, rank: int, journal: Journal, linear: dict[str, dict[str, Any]]
) -> None:
    """adapter_model.safetensors of one rank; one module is in memory at a time."""
    specs: dict[str, Spec] = {}
    origin: dict[str, tuple[str, str]] = {}
    for name in (name for name in linear if "squares" in linear[name]):
        info = pair.donor[name]
        used = min(rank, *info.shape)
        key_A, key_B = peft_format.keys(peft_format.module_of(name))
        specs[key_A] = (DTYPES[info.dtype], (used, info.shape[1]))
        specs[key_B] = (DTYPES[info.dtype], (info.shape[0], used))
        origin |= {key_A: (name, "A"), key_B: (name, "B")}

    def slices() -> Iterator[torch.Tensor]:
        for key in order(specs):
            name, factor = origin[key]
            rows, columns = specs[key][1]
            file = open_tensors(journal.file(name, ".safetensors"))
            yield read_rows(file, factor, 0, rows)[:, :columns]

    write_tensors(folder / peft_format.WEIGHTS, specs, slices())


def _write_dense(folder: Path, pair: Pair, journal: Journal, changed: dict[str, Any]) -> None:
    if not changed:
        return
    specs: dict[str, Spec] = {name: (torch.float32, pair.base[name].shape) for name in changed}
    files = (open_tensors(journal.file(name, ".safetensors")) for name in order(specs))
    write_tensors(folder / peft_format.DENSE, specs, (read_tensor(file, "delta") for file in files))
