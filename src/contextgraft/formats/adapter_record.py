"""The record of an adapter in its sidecar: rank, base, donor, RoPE, and the energy captured by module."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.formats.sidecar import find_sidecars, incomplete_sidecar

KIND = "adapter"
REMEDY = "give folders that `contextgraft extract` wrote"


@dataclass(frozen=True)
class ModuleEnergy:
    """Captured share of the energy (squared Frobenius norm) of one module's delta, and the delta's norm."""

    name: str
    energy: float
    delta_norm: float


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter was made of; `energy` is the share of the whole delta's energy that it captures."""

    rank: int
    energy: float
    modules: tuple[ModuleEnergy, ...]
    base: Mapping[str, Any]
    donor: Mapping[str, Any]
    rope: Mapping[str, Any]


def read_adapter_records(folders: Iterable[Path]) -> tuple[AdapterRecord, ...]:
    """Every adapter in or below the folders, once, by donor and rank; InputError if a folder has none."""
    sidecars = find_sidecars(folders, KIND, REMEDY)
    return tuple(sorted((adapter_record(value, path) for path, value in sidecars.items()), key=_order))


def adapter_record(sidecar: Mapping[str, Any], path: Path) -> AdapterRecord:
    """The record in one sidecar; InputError names what is missing."""
    try:
        modules = tuple(
            ModuleEnergy(name, float(value["energy"]), float(value["delta_norm"]))
            for name, value in sorted(sidecar["modules"].items())
        )
        return AdapterRecord(
            rank=int(sidecar["rank"]),
            energy=float(sidecar["energy"]),
            modules=modules,
            base=dict(sidecar["base"]),
            donor=dict(sidecar["donor"]),
            rope={side: dict(sidecar["rope"][side]) for side in ("base", "donor")},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise incomplete_sidecar("an adapter", path, error, REMEDY) from None


def base_context(adapters: Iterable[AdapterRecord]) -> int | None:
    """The base's context in tokens; None if the adapters do not agree on one."""
    contexts = {adapter.rope.get("base", {}).get("max_positions") for adapter in adapters}
    context = contexts.pop() if len(contexts) == 1 else None
    return context if isinstance(context, int) else None


def _order(adapter: AdapterRecord) -> tuple[str, str, int]:
    return str(adapter.donor.get("name")), str(adapter.donor.get("digest")), adapter.rank
