"""The directions of two deltas summed up: by layer, by kind of module and in all; as JSON and as Parquet."""

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

CHANCE_LIMIT = 1.959963984540054  # standard deviations: chance stays within them 95 times of 100
SCHEMA = pa.schema(
    {
        "target_name": pa.string(),
        "target_digest": pa.string(),
        "donor_name": pa.string(),
        "donor_digest": pa.string(),
        "base_digest": pa.string(),
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
class AlignmentResult:
    """What was found; `models` has name and digest of "base", "donor" and "target"."""

    tensors: tuple[TensorAlignment, ...]
    models: dict[str, dict[str, str]]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Direction:
    """Some tensors as one long vector each.

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
        """Whether the cosine lies outside the 95 % of what chance would give."""
        return (
            self.cosine is not None
            and self.chance is not None
            and abs(self.cosine) > CHANCE_LIMIT * self.chance
        )


def direction(name: str, tensors: Iterable[TensorAlignment]) -> Direction:
    """Tensors taken together.

    The squared cosine of a fixed and a random direction among d dimensions has the mean 1 / d (T. Cai, J. Fan
    and T. Jiang, Journal of Machine Learning Research 14 (2013) 1837-1864); the tensors' inner products are
    then independent, so their variances add up.
    """
    parts = list(tensors)
    norms = math.hypot(*(part.donor_norm for part in parts)), math.hypot(*(p.target_norm for p in parts))
    inner = math.fsum(part.inner for part in parts)
    product = norms[0] * norms[1]
    spread = math.hypot(*(p.donor_norm * p.target_norm / math.sqrt(p.elements) for p in parts if p.elements))
    return Direction(
        name=name,
        tensors=len(parts),
        elements=sum(part.elements for part in parts),
        donor_norm=norms[0],
        target_norm=norms[1],
        inner=inner,
        cosine=inner / product if product else None,
        chance=spread / product if product else None,
    )


def grouped(tensors: Iterable[TensorAlignment], key: Callable[[str], Any]) -> list[Direction]:
    """Tensors of one layer or kind together, sorted; those whose key is None are left out."""
    groups: dict[Any, list[TensorAlignment]] = defaultdict(list)
    for tensor in tensors:
        groups[key(tensor.name)].append(tensor)
    return [direction(str(name), groups[name]) for name in sorted(set(groups) - {None})]


def by_layer(found: AlignmentResult) -> list[Direction]:
    """A line for each layer."""
    return grouped(found.tensors, layer_of)


def by_kind(found: AlignmentResult) -> list[Direction]:
    """A line for each kind of module."""
    return grouped(found.tensors, module_kind)


def summary(found: AlignmentResult) -> dict[str, Any]:
    """JSON for programs."""
    return {
        "models": found.models,
        "all": _json(direction("all", found.tensors)),
        "layers": {each.name: _json(each) for each in by_layer(found)},
        "kinds": {each.name: _json(each) for each in by_kind(found)},
        "tensors": {each.name: _json(direction(each.name, [each])) for each in found.tensors},
        "left_out": list(found.left_out),
    }


def _json(each: Direction) -> dict[str, Any]:
    return {key: value for key, value in vars(each).items() if key != "name"} | {
        "beyond_chance": each.beyond_chance
    }


def table(found: AlignmentResult) -> pa.Table:
    """A row a tensor."""
    models = found.models
    return pa.Table.from_pylist(
        [
            {
                "target_name": models["target"]["name"],
                "target_digest": models["target"]["digest"],
                "donor_name": models["donor"]["name"],
                "donor_digest": models["donor"]["digest"],
                "base_digest": models["base"]["digest"],
                "tensor": each.name,
                "layer": layer_of(each.name),
                "kind": module_kind(each.name),
                "contextgraft": __version__,
                **_json(direction(each.name, [each])),
            }
            for each in found.tensors
        ],
        schema=SCHEMA,
    )


def write(found: AlignmentResult, path: Path) -> None:
    """The table as Parquet, whole or not at all."""
    with publish_file(path) as temporary:
        pq.write_table(table(found), temporary, compression="zstd")


def write_nothing(path: Path) -> None:
    """A table without rows, for a fine-tune that cannot be compared."""
    with publish_file(path) as temporary:
        pq.write_table(SCHEMA.empty_table(), temporary, compression="zstd")
