"""The record of an adapter in its sidecar: rank, base, donor, RoPE, and the energy captured by module."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.formats.sidecar import read_records

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
    """What an adapter was made of; `energy` is the share of the whole delta's energy that it captures.

    `trained`: its factors were trained, not extracted. `folder` is where its sidecar was read; None if it is
    not known.
    """

    rank: int
    energy: float
    modules: tuple[ModuleEnergy, ...]
    base: Mapping[str, Any]
    donor: Mapping[str, Any]
    rope: Mapping[str, Any]
    trained: bool = False
    folder: Path | None = None

    @property
    def path(self) -> str:
        """Its folder relative to the working folder, or its name: a page names no folder of a machine."""
        if self.folder is None:
            return ""
        here = Path.cwd()
        inside = self.folder.is_relative_to(here)
        return str(self.folder.relative_to(here)) if inside else self.folder.name


def read_adapter_records(folders: Iterable[Path]) -> tuple[AdapterRecord, ...]:
    """Every adapter in or below the folders, once, by donor and rank; InputError if a folder has none."""
    return tuple(sorted(read_records(folders, KIND, REMEDY, parse_adapter_record), key=_order))


def parse_adapter_record(sidecar: Mapping[str, Any], path: Path | None = None) -> AdapterRecord:
    """The record in a sidecar, read from `path`; KeyError, TypeError or ValueError if it is incomplete."""
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
        trained=sidecar.get("trained") is True,
        folder=path.parent if path else None,
    )


def base_context(adapters: Iterable[AdapterRecord]) -> int | None:
    """The base's context in tokens; None if the adapters do not agree on one."""
    contexts = {adapter.rope.get("base", {}).get("max_positions") for adapter in adapters}
    context = contexts.pop() if len(contexts) == 1 else None
    return context if isinstance(context, int) else None


def _order(adapter: AdapterRecord) -> tuple[str, str, int]:
    return str(adapter.donor.get("name")), str(adapter.donor.get("digest")), adapter.rank
