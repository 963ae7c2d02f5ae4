"""Whether a fine-tune changed the base in the direction of an adapter: the donor itself is not read."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from contextgraft.adapter.analysis.alignment import AlignedTensor, aligned_models, common_rows
from contextgraft.adapter.compute.numeric import inner_product, norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.extract.delta import Delta
from contextgraft.adapter.extract.model_pair import ModelPair, open_pair
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.fit import ScaledAdapter, TensorChange, fit
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.errors import MismatchError
from contextgraft.formats.alignment import AlignmentResult, TensorAlignment
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
    base_rows, columns = pair.base[name].matrix
    target = Delta(pair.base, pair.donor, name, buffers, 0, pair.rows_for(name), count=base_rows)
    deltas = [item.load(buffers.device) for item in change.entries]
    needs_base = any(item.entry.needs_model for item in change.entries)
    whole = read_tensor(pair.base, name).float().reshape(base_rows, columns) if needs_base else None
    common = common_rows(target.rows, target.donor_rows)
    squares: tuple[list[float], list[float]] = ([], [])
    inners = []
    start = 0
    for tile in target.tiles():
        stop = start + len(tile)
        zeros = torch.zeros_like(tile)
        old = zeros if whole is None else whole[start:stop]
        donor = sum((delta.tile(old, start, stop, torch.empty_like(tile)) for delta in deltas), start=zeros)
        if common is not None:
            tile.mul_(common[start:stop, None])
            donor = donor * common[start:stop, None]
        squares[0].append(norm_squared(donor))
        squares[1].append(norm_squared(tile))
        inners.append(inner_product(donor, tile))
        start = stop
    rows = target.rows if common is None else int(common.sum())
    norms = [math.sqrt(math.fsum(values)) for values in squares]
    measure = target.measure
    return AlignedTensor(
        TensorAlignment(name, rows * columns, norms[0], norms[1], math.fsum(inners)),
        measure.base_digest,
        measure.donor_digest,
    )
