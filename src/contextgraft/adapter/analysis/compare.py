"""How far two adapters are apart, module by module, without building a matrix of either.

Legend of shape suffixes: M rows, N columns, R and S the two ranks.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.modules import Addition, Factors
from contextgraft.errors import MismatchError

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Distance:
    """Two deltas of one tensor: their norms, what they share, and how their spaces lie.

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


def compare(first: Adapter, second: Adapter, advance: Callable[[int], object] = int) -> list[Distance]:
    """Every tensor that either changes; one that only one of them changes is at the whole norm's distance.

    Adapters for other shapes, and parts that are no delta without a model (DoRA, replaced modules), raise
    MismatchError.
    """
    for adapter in (first, second):
        _refuse_absolute(adapter)
    return list(_distances(first, second, advance))


def total(distances: list[Distance]) -> Distance:
    """All tensors taken as one long vector; ranks are the largest, the overlap a mean by energy."""
    norms = math.hypot(*(d.norms[0] for d in distances)), math.hypot(*(d.norms[1] for d in distances))
    factors = [d for d in distances if d.overlap is not None and d.angle is not None]
    weight = math.fsum(d.norms[1] ** 2 for d in factors)
    overlap = math.fsum((d.overlap or 0) * d.norms[1] ** 2 for d in factors) / weight if weight else None
    return Distance(
        "all",
        (max((d.ranks[0] for d in distances), default=0), max((d.ranks[1] for d in distances), default=0)),
        norms,
        math.fsum(d.inner for d in distances),
        overlap,
        max((d.angle or 0 for d in factors), default=None),
    )


def between(first: Pair, second: Pair) -> tuple[tuple[float, float], float, float | None, float | None]:
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
    cosines = torch.cat([torch.linalg.svdvals(each) for each in (left_RS, right_RS)]).clamp(max=1)
    return norms, inner, float(cosines.square().mean()), math.degrees(math.acos(float(cosines.min())))


def _orthogonal(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthonormal bases of output and input space and the small matrix between them."""
    left, right = (torch.linalg.qr(each.double()) for each in (pair[0], pair[1].T))
    U, S, Vh = torch.linalg.svd(left.R @ right.R.T)
    known = torch.gt(S, max(float(S[0]), 1e-300) * 1e-6)  # where no delta goes is none of its space
    return left.Q @ U[:, : len(S)][:, known], torch.diag(S[known]), right.Q @ Vh[: len(S)][known].T


def _distances(first: Adapter, second: Adapter, advance: Callable[[int], object]) -> Iterator[Distance]:
    for name in sorted({*first.parts, *second.parts}):
        sides = [adapter.parts.get(name) for adapter in (first, second)]
        shapes = {part.shape for part in sides if part is not None}
        if len(shapes) > 1:
            raise MismatchError(
                f"does not fit {second.path} at tensor {name!r}",
                path=first.path,
                expected=f"shape {list(shapes.pop())}",
                received=f"shape {list(shapes.pop())}",
                remedy="compare adapters of one base",
            )
        yield _distance(name, first, second)
        advance(1)


def _distance(name: str, first: Adapter, second: Adapter) -> Distance:
    parts = [adapter.parts.get(name) for adapter in (first, second)]
    factors = [_factors(adapter, name) for adapter in (first, second)]
    ranks = tuple(0 if pair is None else pair[0].shape[1] for pair in factors)
    if factors[0] is not None and factors[1] is not None:
        norms, inner, overlap, angle = between(factors[0], factors[1])
        return Distance(name, (ranks[0], ranks[1]), norms, inner, overlap, angle)
    inner = 0.0
    if isinstance(parts[0], Addition) and isinstance(parts[1], Addition):
        inner = float((_vector(first, parts[0]) * _vector(second, parts[1])).sum())
    return Distance(
        name, (ranks[0], ranks[1]), (_norm(first, name, factors[0]), _norm(second, name, factors[1])), inner
    )


def _factors(adapter: Adapter, name: str) -> Pair | None:
    part = adapter.parts.get(name)
    if not isinstance(part, Factors):
        return None
    A, B = adapter.read(part.key_A).float(), adapter.read(part.key_B).float()
    return (A.T, B.T * part.scaling) if part.embedding else (B, A * part.scaling)


def _norm(adapter: Adapter, name: str, pair: Pair | None) -> float:
    part = adapter.parts.get(name)
    if pair is not None:
        return float(torch.linalg.matrix_norm(_orthogonal(pair)[1]))
    return float(_vector(adapter, part).norm()) if isinstance(part, Addition) else 0.0


def _vector(adapter: Adapter, part: Addition) -> torch.Tensor:
    return adapter.read(part.key).double() * part.scaling


def _refuse_absolute(adapter: Adapter) -> None:
    dora = [name for name, part in adapter.factors.items() if part.magnitude is not None]
    odd = [*adapter.replaced, *dora]
    if odd:
        raise MismatchError(
            "holds more than deltas, which cannot be compared without a model",
            path=adapter.path,
            received=", ".join(odd[:3]),
            remedy="merge both and compare the models with inspect --base",
        )
