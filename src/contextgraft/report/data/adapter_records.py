"""The adapters' sidecars: energy of the delta that each rank captures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.formats.sidecar import find_sidecars, incomplete_sidecar
from contextgraft.formats.tensor_names import kind_order, layer_of, short_kind

WHOLE = "all modules"
REMEDY = "give folders that `contextgraft extract` wrote"


@dataclass(frozen=True)
class Module:
    """Captured share of one delta's energy (its squared Frobenius norm), and that norm."""

    name: str
    energy: float
    delta_norm: float


@dataclass(frozen=True)
class Adapter:
    """What a sidecar tells: rank, energies, and what the adapter was made of."""

    rank: int
    energy: float
    modules: tuple[Module, ...]
    base: Mapping[str, Any]
    donor: Mapping[str, Any]
    rope: Mapping[str, Any]


@dataclass(frozen=True)
class Energy:
    """Energy held at one rank by one kind of module: mean over the adapters of that rank, and range."""

    kind: str
    rank: int
    mean: float
    low: float
    high: float


def read(folders: Iterable[Path]) -> tuple[Adapter, ...]:
    """Every adapter in or below the folders, once, by donor and rank; InputError where there is none."""
    found = find_sidecars(folders, "adapter", REMEDY)
    return tuple(sorted((parse(value, path) for path, value in found.items()), key=_order))


def _order(adapter: Adapter) -> tuple[str, str, int]:
    return str(adapter.donor.get("name")), str(adapter.donor.get("digest")), adapter.rank


def parse(sidecar: Mapping[str, Any], path: Path) -> Adapter:
    """One sidecar; InputError names what it lacks."""
    try:
        modules = tuple(
            Module(name, float(value["energy"]), float(value["delta_norm"]))
            for name, value in sorted(sidecar["modules"].items())
        )
        return Adapter(
            rank=int(sidecar["rank"]),
            energy=float(sidecar["energy"]),
            modules=modules,
            base=dict(sidecar["base"]),
            donor=dict(sidecar["donor"]),
            rope={side: dict(sidecar["rope"][side]) for side in ("base", "donor")},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise incomplete_sidecar("an adapter", path, error, REMEDY) from None


def energies(adapters: Sequence[Adapter]) -> tuple[Energy, ...]:
    """Energy by kind of module and rank, the whole first; kinds keep the order of a layer."""
    values: dict[tuple[str, int], list[float]] = {}
    for adapter in adapters:
        for name, share in {WHOLE: adapter.energy, **by_kind(adapter)}.items():
            values.setdefault((name, adapter.rank), []).append(share)
    keys = sorted(values, key=lambda key: (place_of(key[0]), key[1]))
    return tuple(
        Energy(
            name,
            rank,
            sum(values[name, rank]) / len(values[name, rank]),
            min(values[name, rank]),
            max(values[name, rank]),
        )
        for name, rank in keys
    )


def by_kind(adapter: Adapter) -> dict[str, float]:
    """Captured share of the energy of all deltas of a kind: each module counts by its energy."""
    total: dict[str, float] = {}
    captured: dict[str, float] = {}
    for module in adapter.modules:
        name, energy = short_kind(module.name), module.delta_norm**2
        total[name] = total.get(name, 0.0) + energy
        captured[name] = captured.get(name, 0.0) + energy * module.energy
    return {name: captured[name] / total[name] for name in sorted(total) if total[name] > 0}


@dataclass(frozen=True)
class LayerEnergy:
    """Energy held at one rank by one kind of module in one layer: mean over the adapters of that rank."""

    rank: int
    layer: int
    kind: str
    mean: float


def by_layer(adapters: Sequence[Adapter]) -> tuple[LayerEnergy, ...]:
    """Energy by rank, layer and kind of module; kinds keep the order of a layer."""
    values: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for adapter in adapters:
        for module in adapter.modules:
            place = layer_of(module.name)
            if place is not None and module.delta_norm > 0:
                squared = module.delta_norm**2
                key = adapter.rank, place, short_kind(module.name)
                values.setdefault(key, []).append((squared * module.energy, squared))
    return tuple(
        LayerEnergy(*key, sum(held for held, _ in values[key]) / sum(whole for _, whole in values[key]))
        for key in sorted(values, key=lambda key: (key[0], key[1], place_of(key[2])))
    )


def place_of(name: str) -> tuple[int, str]:
    """Where a kind of module stands: the whole, then as in a layer, then by name."""
    return (-1, name) if name == WHOLE else kind_order(name)


def base_context(adapters: Iterable[Adapter]) -> int | None:
    """The base's own context by the adapters, where they agree on one."""
    contexts = {adapter.rope.get("base", {}).get("max_positions") for adapter in adapters}
    context = contexts.pop() if len(contexts) == 1 else None
    return context if isinstance(context, int) else None
