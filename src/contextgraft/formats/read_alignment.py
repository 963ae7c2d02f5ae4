"""Read the tables that `contextgraft align` wrote, and summarise them by layer and kind of module."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.checkpoint.replaceable import check_file_replaceable
from contextgraft.config.text_file import check_regular
from contextgraft.errors import InputError, raise_read_error
from contextgraft.formats.alignment import CHANCE_LIMIT, SCHEMA, TensorAlignment, direction
from contextgraft.formats.sample_files import KINDS, first_line
from contextgraft.formats.tensor_names import kind_order, layer_of, short_kind

REMEDY = "give files that `contextgraft align --out` wrote"
COLUMNS = (
    "target_digest", "donor_digest", "base_digest", "target_name", "donor_name", "tensor", "layer", "kind",
    "donor_norm", "target_norm", "inner", "elements",
)  # fmt: skip
LATER = ("adapter_digest", "adapter_rank")  # columns that tables of older versions lack: null there
NUMBERS = ("elements", "donor_norm", "target_norm", "inner")
LARGEST = 1e100  # beyond it a number is not a measurement, and its square not finite
IDENTITY = ("target_digest", "donor_digest", "base_digest", *LATER, "tensor")


@dataclass(frozen=True)
class LayerAlignment:
    """Cosine between a fine-tune's delta and another, in one kind of module of one layer.

    The other delta is the donor's or, if there is an `adapter_rank`, that of an adapter of the donor.
    95 % of random directions of as many dimensions have a cosine between -`chance` and `chance`.
    """

    target: str
    donor: str
    layer: int | None
    kind: str
    cosine: float
    chance: float
    adapter_rank: int | None = None
    adapter_digest: str | None = None


@dataclass(frozen=True)
class _LayerKey:
    """What the tensors of one LayerAlignment have in common."""

    target: str
    donor: str
    adapter_rank: int | None
    adapter_digest: str | None
    layer: int | None
    kind: str

    @property
    def order(self) -> tuple[str, str, int, str, int, tuple[int, str]]:
        """The order of the results: donors before their adapters, tensors outside the layers first."""
        rank = -1 if self.adapter_rank is None else self.adapter_rank
        layer = -1 if self.layer is None else self.layer
        return self.target, self.donor, rank, self.adapter_digest or "", layer, kind_order(self.kind)


def read_alignments(paths: Iterable[Path]) -> tuple[LayerAlignment, ...]:
    """Cosines by target, donor, adapter, layer and kind, sorted.

    A tensor that is in several files counts once.
    """
    rows = {tuple(str(row[name]) for name in IDENTITY): row for path in paths for row in _rows(path)}
    groups: dict[_LayerKey, list[TensorAlignment]] = {}
    for identity in sorted(rows):
        row = rows[identity]
        groups.setdefault(_layer_key(row), []).append(_alignment(row))
    return tuple(_layer_alignment(key, groups[key]) for key in sorted(groups, key=lambda key: key.order))


def check_replaceable(path: Path) -> None:
    """Raise OutputError for a file that a table of alignments would replace, and that is none itself."""
    check_file_replaceable(path, _is_alignment, "a table of alignments")


def _is_alignment(path: Path) -> bool:
    try:
        check_regular(path)
        return set(COLUMNS) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise_read_error(error, path)
        return False


def _layer_key(row: Mapping[str, Any]) -> _LayerKey:
    return _LayerKey(
        row["target_name"],
        row["donor_name"],
        row["adapter_rank"],
        row["adapter_digest"],
        layer_of(str(row["tensor"])) if row["layer"] is None else int(row["layer"]),
        short_kind(str(row["kind"])),
    )


def _alignment(row: Mapping[str, Any]) -> TensorAlignment:
    return TensorAlignment(
        row["tensor"],
        row["elements"],
        float(row["donor_norm"]),
        float(row["target_norm"]),
        float(row["inner"]),
    )


def _layer_alignment(key: _LayerKey, tensors: Iterable[TensorAlignment]) -> LayerAlignment:
    whole = direction(key.kind, tensors)
    return LayerAlignment(
        **vars(key), cosine=whole.cosine or 0.0, chance=CHANCE_LIMIT * (whole.chance or 0.0)
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        check_regular(path)
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
    known = [name for name in (*COLUMNS, *LATER) if name in table.column_names]
    for name in known:
        written, given = SCHEMA.field(name).type, table.schema.field(name).type
        kind = next(kind for kind in KINDS if kind.fits(written))
        if not (pa.types.is_null(given) or kind.fits(given)):
            raise InputError(
                f"column {name!r} has the wrong type", path=path, expected=kind.name, received=given,
                remedy=REMEDY,
            )  # fmt: skip
    absent: dict[str, Any] = dict.fromkeys(LATER)
    return [absent | row for row in table.select(known).to_pylist() if _is_whole(row)]


def _is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a row has all names, and numbers that were measured; the others are not shown."""
    numbers = [row[name] for name in NUMBERS]
    return (
        all(row[name] is not None for name in (*NUMBERS, "target_name", "donor_name", "tensor", "kind"))
        and all(math.isfinite(number) and abs(number) < LARGEST for number in numbers)
        and min(row["elements"], row["donor_norm"], row["target_norm"]) >= 0
    )
