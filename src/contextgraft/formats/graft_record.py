"""The record of a graft in its sidecar: target, adapters, RoPE, and what survived of each delta."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.formats.sidecar import read_records

KIND = "graft"
REMEDY = "give folders that `contextgraft merge` wrote"


@dataclass(frozen=True)
class GraftedTensor:
    """One changed tensor: norm of the requested delta, and the share of its energy that is in the graft."""

    name: str
    delta_norm: float
    kept: float


@dataclass(frozen=True)
class GraftRecord:
    """What a graft was made of; `tensors` are the changed ones."""

    name: str
    target: Mapping[str, Any]
    adapters: tuple[Mapping[str, Any], ...]
    rope: Mapping[str, Any]
    tensors: tuple[GraftedTensor, ...]
    folder: Path | None = None

    @property
    def rank(self) -> int | None:
        """Rank of its adapters; None if they have several or it is unknown."""
        ranks = {adapter.get("rank") for adapter in self.adapters}
        rank = ranks.pop() if len(ranks) == 1 else None
        return rank if isinstance(rank, int) else None

    @property
    def scale(self) -> float:
        """The largest of its adapters' scales; 0 for theta only."""
        return max((float(adapter.get("scale", 1.0)) for adapter in self.adapters), default=0.0)

    @property
    def donor(self) -> Mapping[str, Any]:
        """Identity of the first adapter's donor, as far as it is known."""
        return next((dict(adapter["donor"]) for adapter in self.adapters if adapter.get("donor")), {})


def read_graft_records(folders: Iterable[Path]) -> tuple[GraftRecord, ...]:
    """Every graft in or below the folders, once, sorted; InputError if a folder has none."""
    return tuple(sorted(read_records(folders, KIND, REMEDY, parse_graft_record), key=_order))


def parse_graft_record(sidecar: Mapping[str, Any], path: Path | None = None) -> GraftRecord:
    """The record in a manifest, read from `path`; KeyError, TypeError or ValueError if it is incomplete."""
    tensors = tuple(
        GraftedTensor(name, float(value["delta_norm"]), float(value["kept"]))
        for name, value in sorted(sidecar["tensors"].items())
        if value["applied"]
    )
    return GraftRecord(
        path.parent.name if path else "",
        dict(sidecar["target"]),
        tuple(dict(adapter) for adapter in sidecar["adapters"]),
        dict(sidecar["rope"]),
        tensors,
        path.parent if path else None,
    )


def _order(graft: GraftRecord) -> tuple[str, str, int, str]:
    return str(graft.target.get("name", "")), str(graft.donor.get("name", "")), graft.rank or 0, graft.name
