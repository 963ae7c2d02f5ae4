"""What the weights tell: how much of each delta survived rounding, and whether deltas point the same way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.errors import InputError
from contextgraft.formats.sidecar import find_sidecars, incomplete_sidecar
from contextgraft.formats.tensor_names import layer_of, module_kind, short_kind
from contextgraft.report.data.adapter_records import WHOLE, place_of

GRAFTS = "give folders that `contextgraft merge` wrote"
ALIGNED = "give files that `contextgraft align --out` wrote"
COLUMNS = (
    "target_digest", "donor_digest", "base_digest", "target_name", "donor_name", "tensor", "layer", "kind",
    "donor_norm", "target_norm", "inner", "elements",
)  # fmt: skip
SAME = ("target_digest", "donor_digest", "base_digest", "tensor")
CHANCE = 1.96  # standard deviations that hold 95 % of the cosines of random directions


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graft: norm of the delta that was asked for, and the share of it that is there."""

    name: str
    delta_norm: float
    kept: float


@dataclass(frozen=True)
class Graft:
    """What a graft's sidecar tells of its making."""

    name: str
    target: Mapping[str, Any]
    adapters: tuple[Mapping[str, Any], ...]
    rope: Mapping[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def rank(self) -> int | None:
        """Rank of its adapter; None where there are several or it is unknown."""
        ranks = {item.get("rank") for item in self.adapters}
        rank = ranks.pop() if len(ranks) == 1 else None
        return rank if isinstance(rank, int) else None

    @property
    def scale(self) -> float:
        """The largest of its adapters' scales; 0 for theta only."""
        return max((float(item.get("scale", 1.0)) for item in self.adapters), default=0.0)

    @property
    def donor(self) -> Mapping[str, Any]:
        """Identity of the first adapter's donor, as far as it is known."""
        return next((dict(item["donor"]) for item in self.adapters if item.get("donor")), {})


@dataclass(frozen=True)
class Survival:
    """Share of the delta that survived in one kind of module; `lowest` is that of the worst tensor."""

    kind: str
    kept: float
    lowest: float
    tensors: int


@dataclass(frozen=True)
class Alignment:
    """Cosine between a fine-tune's delta and a donor's, in one kind of module of one layer.

    `chance` is the size that 95 % of random directions of as many dimensions stay below.
    """

    target: str
    donor: str
    layer: int | None
    kind: str
    cosine: float
    chance: float
    donor_norm: float
    target_norm: float


def grafts(folders: Iterable[Path]) -> tuple[Graft, ...]:
    """Every graft in or below the folders, once; InputError where there is none."""
    found = find_sidecars(folders, "graft", GRAFTS)
    made = [parse(value, path) for path, value in found.items()]
    return tuple(
        sorted(made, key=lambda item: (_name(item.target), _name(item.donor), item.rank or 0, item.name))
    )


def parse(sidecar: Mapping[str, Any], path: Path) -> Graft:
    """One sidecar; InputError names what it lacks."""
    try:
        tensors = tuple(
            Tensor(name, float(value["delta_norm"]), float(value["kept"]))
            for name, value in sorted(sidecar["tensors"].items())
            if value["applied"]
        )
        return Graft(
            path.parent.name,
            dict(sidecar["target"]),
            tuple(dict(item) for item in sidecar["adapters"]),
            dict(sidecar["rope"]),
            tensors,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise incomplete_sidecar("a graft", path, error, GRAFTS) from None


def survival(graft: Graft) -> tuple[Survival, ...]:
    """By kind of module, the whole first: each tensor counts by its delta's energy."""
    groups: dict[str, list[Tensor]] = {}
    for tensor in graft.tensors:
        if tensor.delta_norm > 0:
            for name in (WHOLE, short_kind(module_kind(tensor.name))):
                groups.setdefault(name, []).append(tensor)
    return tuple(
        Survival(
            name,
            sum(item.kept * item.delta_norm**2 for item in groups[name])
            / sum(item.delta_norm**2 for item in groups[name]),
            min(item.kept for item in groups[name]),
            len(groups[name]),
        )
        for name in sorted(groups, key=place_of)
    )


def alignments(files: Iterable[Path]) -> tuple[Alignment, ...]:
    """Cosines by target, donor, layer and kind, from the tensors of every file; a tensor counts once."""
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for file in files:
        for found in _table(file):
            rows[tuple(str(found[name]) for name in SAME)] = found
    groups: dict[tuple[str, str, int, str], list[Mapping[str, Any]]] = {}
    for key in sorted(rows):
        row = rows[key]
        place = layer_of(str(row["tensor"])) if row["layer"] is None else int(row["layer"])
        group = (
            str(row["target_name"]),
            str(row["donor_name"]),
            -1 if place is None else place,
            short_kind(str(row["kind"])),
        )
        groups.setdefault(group, []).append(row)
    return tuple(
        _aligned(group, groups[group])
        for group in sorted(groups, key=lambda group: (*group[:3], place_of(group[3])))
    )


def _aligned(group: tuple[str, str, int, str], rows: Sequence[Mapping[str, Any]]) -> Alignment:
    target, donor, place, name = group
    donor_norm, target_norm = (
        hypot(*(float(row[side]) for row in rows)) for side in ("donor_norm", "target_norm")
    )
    inner = sum(float(row["inner"]) for row in rows)
    scale = donor_norm * target_norm
    # a random direction of its own for every tensor: the variances of the inner products add up
    spread = hypot(
        *(
            float(row["donor_norm"]) * float(row["target_norm"]) / sqrt(row["elements"])
            for row in rows
            if row["elements"]
        )
    )
    return Alignment(
        target,
        donor,
        None if place < 0 else place,
        name,
        inner / scale if scale else 0.0,
        CHANCE * spread / scale if scale else 0.0,
        donor_norm,
        target_norm,
    )


def _table(file: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("is not a readable Parquet file", path=file, received=said, remedy=ALIGNED) from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            "is not a table of alignments", path=file, received=f"no {', '.join(missing)}", remedy=ALIGNED
        )
    rows: list[dict[str, Any]] = table.select(list(COLUMNS)).to_pylist()
    return rows


def _name(identity: Mapping[str, Any]) -> str:
    return str(identity.get("name", ""))
