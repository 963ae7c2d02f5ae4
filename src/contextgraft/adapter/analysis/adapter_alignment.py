"""Whether a fine-tune changed the base in the direction of an adapter: the donor itself is not read."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from contextgraft.adapter.analysis.alignment import (
    AlignedTensor,
    aligned_models,
    base_rows_delta,
    changed_digest,
    common_rows,
    compare_tiles,
)
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.extract.delta import Delta
from contextgraft.adapter.extract.model_pair import ModelPair, open_pair
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.fit import ScaledAdapter, TensorChange, fit
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.errors import MismatchError
from contextgraft.formats.alignment import AlignedAdapter, AlignmentResult
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.formats.tensor_names import TensorRole


def align_adapter(
    adapter: Adapter, base: Path, target: Path, *, threads: int = 1, advance: Callable[[int], object] = int
) -> AlignmentResult:
    """Compare the delta of an adapter with target minus base; `advance` is called with bytes read.

    The delta is what the adapter holds of donor minus base: the part that a graft adds. `base` must be the
    one that the adapter was extracted from, where that is recorded; another raises MismatchError. Tensors
    without an entry in the adapter are left out. Otherwise as `alignment.align`.
    """
    record = adapter.sidecar
    selection = TensorSelection.from_json(record["selection"], adapter.path / SIDECAR) if record else None
    pair = open_pair(base, target, selection)
    changes = fit([ScaledAdapter(adapter)], pair.base, replace_modules=True).changes
    selected = {
        name for role, names in pair.names_by_role.items() if role != TensorRole.IGNORED for name in names
    }
    names = sorted(selected & set(changes))
    with unchanged(pair.base.inputs, pair.donor.inputs, adapter.inputs):
        results = _align(pair, changes, names, threads, advance)
        aligned = AlignedAdapter(adapter.digest, adapter.rank)
    known = {
        "base": (pair.base, {name: result.base_digest for name, result in results.items()}),
        "target": (pair.donor, {name: result.target_digest for name, result in results.items()}),
    }
    models = aligned_models(known)
    origin = adapter.origin
    expected = origin["base"]["digest"]
    if expected not in (None, models["base"]["digest"]):
        raise MismatchError(
            "is not the base of the adapter", path=base, expected=expected,
            received=models["base"]["digest"], remedy=f"give the base that {adapter.path} was extracted from",
        )  # fmt: skip
    donor = {key: origin["donor"][key] for key in ("name", "digest")}
    left_out = {*pair.base.tensors, *pair.donor.tensors, *changes} - set(names)
    return AlignmentResult(
        tuple(results[name].alignment for name in names),
        {**models, "donor": donor},
        tuple(sorted(left_out)),
        aligned,
    )


def _align(
    pair: ModelPair,
    changes: Mapping[str, TensorChange],
    names: list[str],
    threads: int,
    advance: Callable[[int], object],
) -> dict[str, AlignedTensor]:
    results: dict[str, AlignedTensor] = {}

    def step(name: str, buffers: Buffers) -> None:
        results[name] = _compare(pair, changes[name], name, buffers)
        advance(pair.base[name].bytes + pair.donor[name].bytes)

    for_each_tensor(step, sorted(names, key=pair.size_key, reverse=True), threads)
    return results


def _compare(pair: ModelPair, change: TensorChange, name: str, buffers: Buffers) -> AlignedTensor:
    target = base_rows_delta(pair, name, buffers)
    common = common_rows(target.rows, target.donor_rows)
    alignment = compare_tiles(target, _tiles(pair, change, target), common)
    return AlignedTensor(alignment, target.measure.base_digest, changed_digest(pair, target))


def _tiles(
    pair: ModelPair, change: TensorChange, target: Delta
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The adapter's delta and the target's, tile by tile."""
    deltas = [item.load(target.buffers.device) for item in change.entries]
    needs_base = any(item.entry.needs_model for item in change.entries)
    base = (
        read_tensor(pair.base, target.name).float().reshape(target.rows, target.columns)
        if needs_base
        else None
    )
    start = 0
    for tile in target.tiles():
        stop = start + len(tile)
        zeros = torch.zeros_like(tile)
        old = zeros if base is None else base[start:stop]
        added = (delta.tile(old, start, stop, torch.empty_like(tile)) for delta in deltas)
        yield sum(added, start=zeros), tile
        start = stop
