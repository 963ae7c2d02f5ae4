"""Whether a fine-tune and a donor changed the base in the same direction: norms and inner products."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from contextgraft.adapter.analysis.model_triple import ModelTriple
from contextgraft.adapter.compute.numeric import inner_product, norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.extract.delta import Delta
from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.checkpoint.digest import tensor_digest
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.alignment import AlignmentResult, TensorAlignment
from contextgraft.formats.sidecar import identity


@dataclass(frozen=True)
class AlignedTensor:
    """The comparison of one tensor, and the digests of the models that were read for it."""

    alignment: TensorAlignment
    base_digest: str
    target_digest: str
    donor_digest: str = ""  # if the donor was read


def align(
    models: ModelTriple, *, threads: int = 1, device: str = "cpu", advance: Callable[[int], object] = int
) -> AlignmentResult:
    """Compare donor minus base with target minus base; `advance` is called with bytes read.

    Memory holds a few tiles a thread. Embeddings are aligned by token, and rows that a model lacks are
    ignored. Weights that are not finite raise CheckpointError, files that change InputChanged.
    """
    with unchanged(models.donor.base.inputs, models.donor.donor.inputs, models.target.donor.inputs):
        return _align(models, threads, device, advance)


def _align(
    models: ModelTriple, threads: int, device: str, advance: Callable[[int], object]
) -> AlignmentResult:
    results: dict[str, AlignedTensor] = {}

    def step(name: str, buffers: Buffers) -> None:
        results[name] = _compare(models, name, buffers)
        advance(models.bytes_of(name))

    for_each_tensor(step, sorted(models.names, key=models.donor.size_key, reverse=True), threads, device)
    known = {
        "base": (models.donor.base, {name: result.base_digest for name, result in results.items()}),
        "donor": (models.donor.donor, {name: result.donor_digest for name, result in results.items()}),
        "target": (models.target.donor, {name: result.target_digest for name, result in results.items()}),
    }
    return AlignmentResult(
        tuple(results[name].alignment for name in models.names), aligned_models(known), models.left_out
    )


def aligned_models(known: Mapping[str, tuple[ModelFolder, Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """Name and digest of each model by its role; the digests of tensors that were read are given."""
    identities = {role: identity(folder, digests) for role, (folder, digests) in known.items()}
    return {role: {key: facts[key] for key in ("name", "digest")} for role, facts in identities.items()}


def _compare(models: ModelTriple, name: str, buffers: Buffers) -> AlignedTensor:
    donor = base_rows_delta(models.donor, name, buffers)
    target = base_rows_delta(models.target, name, Buffers(buffers.device, buffers.thread_counts))
    common = common_rows(donor.rows, donor.donor_rows, target.donor_rows)
    alignment = compare_tiles(target, zip(donor.tiles(), target.tiles(), strict=True), common)
    return AlignedTensor(
        alignment,
        donor.measure.base_digest,
        changed_digest(models.target, target),
        changed_digest(models.donor, donor),
    )


def base_rows_delta(pair: ModelPair, name: str, buffers: Buffers) -> Delta:
    """The delta of a tensor in the base's rows: positions that a longer table adds have no base."""
    rows = pair.base[name].matrix[0]
    return Delta(pair.base, pair.donor, name, buffers, 0, pair.rows_for(name), count=rows)


def compare_tiles(
    target: Delta, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], common: torch.Tensor | None
) -> TensorAlignment:
    """Compare two deltas in `pairs` of float32 tiles [rows, columns], donor's and target's, top to bottom.

    `target` has the name and the size of the tensor; `common` is that of `common_rows`. Tiles are changed.
    """
    row = 0
    squares: tuple[list[float], list[float]] = ([], [])
    inners = []
    for tiles in pairs:
        if common is not None:
            kept = common[row : row + len(tiles[0]), None].to(tiles[0].device)
            for tile in tiles:
                tile.mul_(kept)
        row += len(tiles[0])
        for tile, sums in zip(tiles, squares, strict=True):
            sums.append(norm_squared(tile))
        inners.append(inner_product(*tiles))
    rows = target.rows if common is None else int(common.sum())
    norms = [math.sqrt(math.fsum(sums)) for sums in squares]
    return TensorAlignment(target.name, rows * target.columns, norms[0], norms[1], math.fsum(inners))


def changed_digest(pair: ModelPair, delta: Delta) -> str:
    """The digest of the donor's tensor; of a longer table, the pass over the base's rows read a part only."""
    return tensor_digest(pair.donor, delta.name) if delta.name in pair.longer else delta.measure.donor_digest


def common_rows(count: int, *partners: Sequence[int] | None) -> torch.Tensor | None:
    """1 for each row of the base that has a partner in every model, else 0; None if all have."""
    if all(rows is None for rows in partners):
        return None
    common = torch.ones(count)
    for rows in partners:
        if rows is not None:
            common *= (torch.tensor(rows) >= 0).float()
    return common
