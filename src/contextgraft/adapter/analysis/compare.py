"""The distance between two adapters, module by module, without building their matrices.

Legend of shape suffixes: M rows, N columns, R and S the two ranks.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.deltas import FactorPair
from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.errors import CheckpointError, MismatchError
from contextgraft.formats.model.aligned_names import corresponding_names


@dataclass(frozen=True)
class AdapterDistance:
    """Two deltas of one tensor: norms, inner product, and angles between their spaces.

    `overlap` is the mean squared cosine of the principal angles, over output and input spaces; `angle` the
    largest of these in degrees. Both are None for deltas that are not factors.
    """

    name: str
    ranks: tuple[int, int]
    norms: tuple[float, float]
    inner: float
    overlap: float | None = None
    angle: float | None = None

    @property
    def difference(self) -> float:
        """Frobenius norm of first minus second."""
        first, second = self.norms
        return math.sqrt(max(first**2 + second**2 - 2 * self.inner, 0.0))

    @property
    def relative(self) -> float | None:
        """The difference as a share of the second's norm; None where that is zero."""
        return self.difference / self.norms[1] if self.norms[1] else None

    @property
    def cosine(self) -> float | None:
        """Cosine between the two deltas as vectors; None where one is zero."""
        product = self.norms[0] * self.norms[1]
        return self.inner / product if product else None


def compare(first: Adapter, second: Adapter, advance: Callable[[int], object] = int) -> list[AdapterDistance]:
    """Every tensor that either changes; one that only one of them changes is at the whole norm's distance.

    Adapters for other shapes, and parts that are no delta without a model (DoRA, replaced modules), raise
    MismatchError.
    """
    with unchanged(first.inputs, second.inputs):
        return list(_distances(first, second, advance))


def count_tensors(first: Adapter, second: Adapter) -> int:
    """How many tensors `compare` goes through; adapters that it cannot compare raise MismatchError."""
    return len(_matched(first, second))


def total(distances: list[AdapterDistance]) -> AdapterDistance:
    """All tensors taken as one long vector; ranks are the largest, the overlap a mean by energy."""
    norms = math.hypot(*(d.norms[0] for d in distances)), math.hypot(*(d.norms[1] for d in distances))
    factors = [d for d in distances if d.overlap is not None and d.angle is not None]
    weight = math.fsum(d.norms[1] ** 2 for d in factors)
    overlap = math.fsum((d.overlap or 0) * d.norms[1] ** 2 for d in factors) / weight if weight else None
    return AdapterDistance(
        "all",
        (max((d.ranks[0] for d in distances), default=0), max((d.ranks[1] for d in distances), default=0)),
        norms,
        math.fsum(d.inner for d in distances),
        overlap,
        max((d.angle or 0 for d in factors), default=None),
    )


def factor_distance(
    first: FactorPair, second: FactorPair
) -> tuple[tuple[float, float], float, float | None, float | None]:
    """Norms, inner product, overlap and largest angle of two products left [M, R] @ right [R, N], in float64.

    The last two are None if one product is zero. By QR of the factors; for the angles see Golub and Van Loan
    2013, section 6.4.3.
    """
    (P_MR, core_RR, W_NR), (Q_MS, core_SS, V_NS) = _orthogonal(first), _orthogonal(second)
    left_RS, right_RS = P_MR.T @ Q_MS, W_NR.T @ V_NS
    inner = float((core_RR * (left_RS @ core_SS @ right_RS.T)).sum())
    norms = float(torch.linalg.matrix_norm(core_RR)), float(torch.linalg.matrix_norm(core_SS))
    if not left_RS.numel():
        return norms, inner, None, None
    cosines = torch.cat([torch.linalg.svdvals(matrix) for matrix in (left_RS, right_RS)]).clamp(max=1)
    return norms, inner, float(cosines.square().mean()), math.degrees(math.acos(float(cosines.min())))


def _orthogonal(pair: FactorPair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthonormal bases of output and input space and the small matrix between them."""
    left, right = (torch.linalg.qr(factor.double()) for factor in (pair[0], pair[1].T))
    U, S, Vh = torch.linalg.svd(left.R @ right.R.T)
    known = torch.gt(
        S, max(float(S[0]), 1e-300) * 1e-6
    )  # directions without a delta do not belong to its space
    return left.Q @ U[:, : len(S)][:, known], torch.diag(S[known]), right.Q @ Vh[: len(S)][known].T


def _distances(
    first: Adapter, second: Adapter, advance: Callable[[int], object]
) -> Iterator[AdapterDistance]:
    for name, (ours, theirs) in _matched(first, second).items():
        yield _distance(name, _Side(first, ours), _Side(second, theirs))
        advance(1)


def _matched(first: Adapter, second: Adapter) -> dict[str, tuple[AdapterEntry | None, AdapterEntry | None]]:
    """The entries of both by the first's names, None where one does not change the tensor."""
    for adapter in (first, second):
        _check_comparable(adapter)
    known = corresponding_names(first.entries, second.entries)
    renamed = {theirs: name for name, theirs in known.items()}
    others = {renamed.get(name, name): entry for name, entry in second.entries.items()}
    pairs = {name: (first.entries.get(name), others.get(name)) for name in sorted({*first.entries, *others})}
    for name, entries in pairs.items():
        shapes = {entry.shape for entry in entries if entry is not None}
        if len(shapes) > 1:
            raise MismatchError(
                f"does not fit {second.path} at tensor {name!r}",
                path=first.path,
                expected=f"shape {list(shapes.pop())}",
                received=f"shape {list(shapes.pop())}",
                remedy="compare adapters of one base",
            )
    return pairs


@dataclass(frozen=True)
class _Side:
    """One adapter's entry for a tensor; None where it does not change the tensor."""

    adapter: Adapter
    entry: AdapterEntry | None

    @cached_property
    def factors(self) -> FactorPair | None:
        pair = self.entry.product(self._read) if self.entry else None
        if pair is not None and not math.isfinite(
            math.prod(float(factor.double().norm()) for factor in pair)
        ):
            raise CheckpointError(
                "has a delta that is not finite", path=self.adapter.path, remedy="correct its alpha"
            )
        return pair

    def dense(self) -> torch.Tensor:
        assert self.entry is not None
        return self.entry.dense(self._read)

    @property
    def rank(self) -> int:
        return 0 if self.factors is None else self.factors[0].shape[1]

    def norm(self) -> float:
        if self.factors is not None:
            return float(torch.linalg.matrix_norm(_orthogonal(self.factors)[1]))
        return 0.0 if self.entry is None else float(self.dense().norm())

    def _read(self, key: str) -> torch.Tensor:
        return self.adapter.read(key).float()


def _distance(name: str, first: _Side, second: _Side) -> AdapterDistance:
    ranks = first.rank, second.rank
    if first.factors is not None and second.factors is not None:
        norms, inner, overlap, angle = factor_distance(first.factors, second.factors)
        return AdapterDistance(name, ranks, norms, inner, overlap, angle)
    inner = 0.0
    if first.entry is not None and second.entry is not None:
        inner = float((first.dense() * second.dense()).sum())
    return AdapterDistance(name, ranks, (first.norm(), second.norm()), inner)


def _check_comparable(adapter: Adapter) -> None:
    absolute = [name for name, entry in adapter.entries.items() if entry.needs_model]
    if absolute:
        raise MismatchError(
            "has changes that are not deltas, which cannot be compared without a model",
            path=adapter.path,
            received=", ".join(absolute[:3]),
            remedy="merge both and compare the models with inspect --base",
        )
