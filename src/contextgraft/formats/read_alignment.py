"""Read the tables that `contextgraft align` wrote, and summarise them by layer and kind of module."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.errors import InputError
from contextgraft.formats.alignment import CHANCE_LIMIT, TensorAlignment, direction
from contextgraft.formats.sample_files import first_line
from contextgraft.formats.tensor_names import kind_order, layer_of, short_kind

REMEDY = "give files that `contextgraft align --out` wrote"
COLUMNS = (
    "target_digest", "donor_digest", "base_digest", "target_name", "donor_name", "tensor", "layer", "kind",
    "donor_norm", "target_norm", "inner", "elements",
)  # fmt: skip
IDENTITY = ("target_digest", "donor_digest", "base_digest", "tensor")


@dataclass(frozen=True)
class LayerAlignment:
    """Cosine between a fine-tune's delta and a donor's, in one kind of module of one layer.

    95 % of random directions of as many dimensions have a cosine between -`chance` and `chance`.
    """

    target: str
    donor: str
    layer: int | None
    kind: str
    cosine: float
    chance: float


def read_alignments(paths: Iterable[Path]) -> tuple[LayerAlignment, ...]:
    """Cosines by target, donor, layer and kind, sorted; a tensor that is in several files counts once."""
    rows = {tuple(str(row[name]) for name in IDENTITY): row for path in paths for row in _rows(path)}
    groups: dict[tuple[str, str, int | None, str], list[TensorAlignment]] = {}
    for key in sorted(rows):
        row = rows[key]
        layer = layer_of(str(row["tensor"])) if row["layer"] is None else int(row["layer"])
        group = row["target_name"], row["donor_name"], layer, short_kind(str(row["kind"]))
        groups.setdefault(group, []).append(_alignment(row))
    return tuple(_layer_alignment(group, groups[group]) for group in sorted(groups, key=_order))


def _alignment(row: Mapping[str, Any]) -> TensorAlignment:
    return TensorAlignment(
        row["tensor"],
        row["elements"],
        float(row["donor_norm"]),
        float(row["target_norm"]),
        float(row["inner"]),
    )


def _layer_alignment(
    group: tuple[str, str, int | None, str], tensors: Iterable[TensorAlignment]
) -> LayerAlignment:
    target, donor, layer, kind = group
    whole = direction(kind, tensors)
    return LayerAlignment(
        target, donor, layer, kind, whole.cosine or 0.0, CHANCE_LIMIT * (whole.chance or 0.0)
    )


def _order(group: tuple[str, str, int | None, str]) -> tuple[str, str, int, tuple[int, str]]:
    target, donor, layer, kind = group
    return target, donor, -1 if layer is None else layer, kind_order(kind)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "not a readable Parquet file", path=path, received=first_line(error), remedy=REMEDY
        ) from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            "not a table of alignments", path=path, received=f"no {', '.join(missing)}", remedy=REMEDY
        )
    rows: list[dict[str, Any]] = table.select(list(COLUMNS)).to_pylist()
    return rows
