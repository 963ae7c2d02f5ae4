"""The alignment of two deltas by layer, by kind of module and in all; as JSON and as Parquet."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft._version import __version__
from contextgraft.checkpoint.atomic import publish_file
from contextgraft.formats.tensor_names import layer_of, module_kind

CHANCE_LIMIT = 1.959963984540054  # standard deviations that contain 95 % of a normal distribution
SCHEMA = pa.schema(
    {
        "target_name": pa.string(),
        "target_digest": pa.string(),
        "donor_name": pa.string(),
        "donor_digest": pa.string(),
        "base_digest": pa.string(),
        "adapter_digest": pa.string(),
        "adapter_rank": pa.int32(),
        "tensor": pa.string(),
        "layer": pa.int32(),
        "kind": pa.string(),
        "elements": pa.int64(),
        "donor_norm": pa.float64(),
        "target_norm": pa.float64(),
        "inner": pa.float64(),
        "cosine": pa.float64(),
        "chance": pa.float64(),
        "contextgraft": pa.string(),
    }
)


@dataclass(frozen=True)
class TensorAlignment:
    """Two deltas of one tensor as vectors of `elements` numbers; norms are Frobenius norms."""

    name: str
    elements: int
    donor_norm: float
    target_norm: float
    inner: float


@dataclass(frozen=True)
class AlignedAdapter:
    """The adapter whose delta was compared in place of the donor's."""

    digest: str
    rank: int


@dataclass(frozen=True)
class AlignmentResult:
    """All compared tensors; `models` has name and digest of "base", "donor" and "target".

    `adapter` is None if the donor itself was compared.
    """

    tensors: tuple[TensorAlignment, ...]
    models: dict[str, dict[str, str]]
    left_out: tuple[str, ...]
    adapter: AlignedAdapter | None = None


@dataclass(frozen=True)
class Direction:
    """Two deltas of several tensors, each taken as one vector.

    `chance` is the standard deviation of the cosine if the deltas had these norms and every tensor a random
    direction of its own: 1 / sqrt(elements) for one tensor. None where a delta is zero.
    """

    name: str
    tensors: int
    elements: int
    donor_norm: float
    target_norm: float
    inner: float
    cosine: float | None
    chance: float | None

    @property
    def beyond_chance(self) -> bool:
        """Whether the cosine is outside the 95 % interval of random directions."""
        return (
            self.cosine is not None
            and self.chance is not None
            and abs(self.cosine) > CHANCE_LIMIT * self.chance
        )


def direction(name: str, tensors: Iterable[TensorAlignment]) -> Direction:
    """Several tensors as one vector.

    The squared cosine of a fixed and a random direction among d dimensions has the mean 1 / d (T. Cai, J. Fan
    and T. Jiang, Journal of Machine Learning Research 14 (2013) 1837-1864); the tensors' inner products are
    then independent, so their variances add up.
    """
    members = list(tensors)
    norms = (
        math.hypot(*(member.donor_norm for member in members)),
        math.hypot(*(p.target_norm for p in members)),
    )
    inner = math.fsum(member.inner for member in members)
    product = norms[0] * norms[1]
    spread = math.hypot(
        *(p.donor_norm * p.target_norm / math.sqrt(p.elements) for p in members if p.elements)
    )
    return Direction(
        name=name,
        tensors=len(members),
        elements=sum(member.elements for member in members),
        donor_norm=norms[0],
        target_norm=norms[1],
        inner=inner,
        cosine=inner / product if product else None,
        chance=spread / product if product else None,
    )


def grouped(tensors: Iterable[TensorAlignment], key: Callable[[str], Any]) -> list[Direction]:
    """A direction for each layer or kind, sorted; tensors whose key is None are omitted."""
    groups: dict[Any, list[TensorAlignment]] = defaultdict(list)
    for tensor in tensors:
        groups[key(tensor.name)].append(tensor)
    return [direction(str(name), groups[name]) for name in sorted(set(groups) - {None})]


def by_layer(result: AlignmentResult) -> list[Direction]:
    """A direction for each layer."""
    return grouped(result.tensors, layer_of)


def by_kind(result: AlignmentResult) -> list[Direction]:
    """A direction for each kind of module."""
    return grouped(result.tensors, module_kind)


def summary(result: AlignmentResult) -> dict[str, Any]:
    """All directions as JSON values."""
    return {
        "models": result.models,
        "all": _json(direction("all", result.tensors)),
        "layers": {item.name: _json(item) for item in by_layer(result)},
        "kinds": {item.name: _json(item) for item in by_kind(result)},
        "tensors": {item.name: _json(direction(item.name, [item])) for item in result.tensors},
        "left_out": list(result.left_out),
    }


def _json(item: Direction) -> dict[str, Any]:
    return {key: value for key, value in vars(item).items() if key != "name"} | {
        "beyond_chance": item.beyond_chance
    }


def table(result: AlignmentResult) -> pa.Table:
    """The alignment as `align --out` and `evaluate --alignment` write it: one row for each tensor."""
    models, adapter = result.models, result.adapter
    return pa.Table.from_pylist(
        [
            {
                "target_name": models["target"]["name"],
                "target_digest": models["target"]["digest"],
                "donor_name": models["donor"]["name"],
                "donor_digest": models["donor"]["digest"],
                "base_digest": models["base"]["digest"],
                "adapter_digest": adapter.digest if adapter else None,
                "adapter_rank": adapter.rank if adapter else None,
                "tensor": item.name,
                "layer": layer_of(item.name),
                "kind": module_kind(item.name),
                "contextgraft": __version__,
                **_json(direction(item.name, [item])),
            }
            for item in result.tensors
        ],
        schema=SCHEMA,
    )


def write(result: AlignmentResult, path: Path) -> None:
    """Write the table as Parquet, atomically."""
    with publish_file(path) as temporary:
        pq.write_table(table(result), temporary, compression="zstd")


def write_nothing(path: Path) -> None:
    """Write a table without rows, for a fine-tune that cannot be compared."""
    with publish_file(path) as temporary:
        pq.write_table(SCHEMA.empty_table(), temporary, compression="zstd")
