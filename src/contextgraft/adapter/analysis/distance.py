"""The relative distance of a model from its base, by kind of tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import torch

from contextgraft.checkpoint.input_files import unchanged
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import read_rows
from contextgraft.formats.model.aligned_names import aligned
from contextgraft.formats.tensor_names import module_kind

BLOCK = 1 << 26  # bytes of one float32 block


@dataclass(frozen=True)
class KindDistance:
    """All tensors of one kind; Frobenius norms over all of them, in the rows that both models have."""

    kind: str
    tensors: int
    changed: int
    base_norm: float
    delta_norm: float

    @property
    def relative(self) -> float | None:
        """||model - base|| / ||base||; None where the base is zero."""
        return self.delta_norm / self.base_norm if self.base_norm else None


@dataclass(frozen=True)
class ModelDistance:
    """Differences between two models; shapes are (base, model)."""

    kinds: tuple[KindDistance, ...]
    only_base: tuple[str, ...]
    only_model: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def changed(self) -> int:
        """Number of compared tensors that differ anywhere."""
        return sum(kind.changed for kind in self.kinds)


def model_distance(base: ModelFolder, model: ModelFolder) -> ModelDistance:
    """Compare tensor by tensor; where only the number of rows differs (vocabulary), over the shared rows.

    The model may name its tensors otherwise than the base: lists have the base's names. A file that changes
    meanwhile raises InputChanged.
    """
    with unchanged(base.inputs, model.inputs):
        return _model_distance(base, aligned(model, base.tensors))


def _model_distance(base: ModelFolder, model: ModelFolder) -> ModelDistance:
    shared = [name for name in base.tensors if name in model.tensors]
    shapes = {
        name: (base[name].shape, model[name].shape)
        for name in shared
        if base[name].shape != model[name].shape
    }
    by_kind: dict[str, list[str]] = {}
    for name in shared:
        if base[name].shape[1:] == model[name].shape[1:]:
            by_kind.setdefault(module_kind(name), []).append(name)
    return ModelDistance(
        kinds=tuple(kind_distance(base, model, kind, names) for kind, names in sorted(by_kind.items())),
        only_base=tuple(name for name in base.tensors if name not in model.tensors),
        only_model=tuple(name for name in model.tensors if name not in base.tensors),
        shapes=shapes,
    )


def kind_distance(base: ModelFolder, model: ModelFolder, kind: str, names: list[str]) -> KindDistance:
    """Sum the squares over all tensors of one kind."""
    sums = [tensor_squares(base, model, name) for name in names]
    return KindDistance(
        kind=kind,
        tensors=len(names),
        changed=sum(delta > 0 for _, delta in sums),
        base_norm=sqrt(sum(square for square, _ in sums)),
        delta_norm=sqrt(sum(delta for _, delta in sums)),
    )


def tensor_squares(base: ModelFolder, model: ModelFolder, name: str) -> tuple[float, float]:
    """(||base||^2, ||model - base||^2) over the rows of one tensor that both have, summed in float64."""
    square = delta = 0.0
    for left, right in paired_blocks(base, model, name):
        square += float(left.square().sum(dtype=torch.float64))
        delta += float((right - left).square().sum(dtype=torch.float64))
    return square, delta


def paired_blocks(
    base: ModelFolder, model: ModelFolder, name: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same rows of both models in float32, block by block."""
    rows = min(base[name].rows, model[name].rows)
    row_bytes = 4 * base[name].numel // max(base[name].rows, 1)
    step = max(1, BLOCK // max(row_bytes, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield read_rows(base, name, start, stop).float(), read_rows(model, name, start, stop).float()
