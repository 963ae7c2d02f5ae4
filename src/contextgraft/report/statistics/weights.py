"""Statistics of weights: energy captured by rank and by layer, survival of deltas after rounding: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.formats.adapter_record import AdapterRecord
from contextgraft.formats.graft_record import GraftedTensor, GraftRecord
from contextgraft.formats.read_alignment import LayerAlignment
from contextgraft.formats.tensor_names import kind_order, layer_of, module_kind, short_kind

ALL_MODULES = "all modules"


@dataclass(frozen=True)
class WeightRecords:
    """Everything that is known of the weights: records of adapters and grafts, alignments of deltas."""

    adapters: tuple[AdapterRecord, ...] = ()
    grafts: tuple[GraftRecord, ...] = ()
    alignments: tuple[LayerAlignment, ...] = ()


@dataclass(frozen=True)
class RankEnergy:
    """Energy captured at one rank in one kind of module: mean and range over the adapters of that rank."""

    kind: str
    rank: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerEnergy:
    """Energy captured at one rank in one kind of module of one layer: mean over the adapters of that rank."""

    rank: int
    layer: int
    kind: str
    mean: float


@dataclass(frozen=True)
class Survival:
    """Share of the delta that survived in one kind of module; `lowest` is that of the worst tensor."""

    kind: str
    kept: float
    lowest: float
    tensors: int


def energy_by_rank(adapters: Sequence[AdapterRecord]) -> tuple[RankEnergy, ...]:
    """Energy by kind of module and rank, all modules first."""
    shares: dict[tuple[str, int], list[float]] = {}
    for adapter in adapters:
        for kind, share in {ALL_MODULES: adapter.energy, **energy_by_kind(adapter)}.items():
            shares.setdefault((kind, adapter.rank), []).append(share)
    return tuple(
        RankEnergy(kind, rank, sum(given) / len(given), min(given), max(given))
        for (kind, rank), given in sorted(shares.items(), key=lambda item: (_order(item[0][0]), item[0][1]))
    )


def energy_by_kind(adapter: AdapterRecord) -> dict[str, float]:
    """Captured share of the energy of all deltas of a kind: each module is weighted by its energy."""
    total: dict[str, float] = {}
    captured: dict[str, float] = {}
    for module in adapter.modules:
        kind, energy = short_kind(module.name), module.delta_norm**2
        total[kind] = total.get(kind, 0.0) + energy
        captured[kind] = captured.get(kind, 0.0) + energy * module.energy
    return {kind: captured[kind] / total[kind] for kind in sorted(total) if total[kind] > 0}


def energy_by_layer(adapters: Sequence[AdapterRecord]) -> tuple[LayerEnergy, ...]:
    """Energy by rank, layer and kind of module; kinds in the order of a layer."""
    values: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for adapter in adapters:
        for module in adapter.modules:
            layer = layer_of(module.name)
            if layer is not None and module.delta_norm > 0:
                squared = module.delta_norm**2
                key = adapter.rank, layer, short_kind(module.name)
                values.setdefault(key, []).append((squared * module.energy, squared))
    return tuple(
        LayerEnergy(
            *key, sum(captured for captured, _ in values[key]) / sum(total for _, total in values[key])
        )
        for key in sorted(values, key=lambda key: (key[0], key[1], _order(key[2])))
    )


def survival(graft: GraftRecord) -> tuple[Survival, ...]:
    """Survival by kind of module, all modules first: each tensor is weighted by its delta's energy."""
    groups: dict[str, list[GraftedTensor]] = {}
    for tensor in graft.tensors:
        if tensor.delta_norm > 0:
            for kind in (ALL_MODULES, short_kind(module_kind(tensor.name))):
                groups.setdefault(kind, []).append(tensor)
    return tuple(
        Survival(
            kind,
            sum(tensor.kept * tensor.delta_norm**2 for tensor in groups[kind])
            / sum(tensor.delta_norm**2 for tensor in groups[kind]),
            min(tensor.kept for tensor in groups[kind]),
            len(groups[kind]),
        )
        for kind in sorted(groups, key=_order)
    )


def _order(kind: str) -> tuple[int, str]:
    """Sort key: all modules first, then kinds in the order of a layer."""
    return (-1, kind) if kind == ALL_MODULES else kind_order(kind)
