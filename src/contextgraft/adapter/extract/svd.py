"""The best low-rank approximation of a matrix that is seen only as tiles of rows. Tensors in, tensors out.

Legend of shape suffixes: M rows, N columns, K dimensions of the basis, W width of one block of it, R rank.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch.nn.functional import pad

from contextgraft.adapter.compute.numeric import norm_squared
from contextgraft.adapter.extract.products import PRODUCTS

TOLERANCE = 1.004  # error wanted, as a multiple of the optimum: 1.005 is promised, and estimates err a little
RESOLUTION = 5e-7  # share of the energy below which float32 tiles have no information
MIN_WIDTH = 16
SMALL = 256
GRAM_ROWS = 2048
COLLAPSE = 0.02  # of the gain from one pass to the next: faster than spectra of deltas let it fall
FEWEST = 3  # passes before the error can be estimated

Tiles = Callable[[], Iterable[torch.Tensor]]
Need = Callable[[torch.Tensor, float], int]


@dataclass(frozen=True)
class Decomposition:
    """Truncated decomposition U S Vh in float32, every smaller rank a slice of it, and how good it is.

    `total` is the whole squared Frobenius norm, exact; `passes` counts passes over the matrix; `excess` is
    the error at the wanted rank as a multiple of the optimum, as estimated when the iteration stopped; NaN
    where the error is below the resolution of float32.
    """

    U_MR: torch.Tensor
    S_R: torch.Tensor
    Vh_RN: torch.Tensor
    total: float
    passes: int
    excess: float

    def lora(self) -> tuple[torch.Tensor, torch.Tensor]:
        """lora_A [R, N] and lora_B [M, R] with B @ A = U S Vh, the root of S on both: neither is tiny."""
        root_R = self.S_R.sqrt()
        return root_R[:, None] * self.Vh_RN, self.U_MR * root_R


def factorise(
    tiles: Tiles,
    shape: tuple[int, int],
    *,
    limit: int,
    need: Need,
    seed: int,
    device: str = "cpu",
    products: str = "float32",
) -> Decomposition:
    """Factors of rank `limit` (or the smaller side) of the [M, N] float32 matrix whose rows `tiles()` yields.

    `need(squares, total)` returns the rank that has to be within TOLERANCE of the optimum, given the squared
    singular values found so far, largest first. Exact where a side is at most SMALL or twice the limit.
    `products` is a key of PRODUCTS: the arithmetic that finds the subspace; the rest is in float32.
    """
    limit = min(limit, *shape)
    if min(shape) <= max(2 * limit, SMALL):
        return _exact(tiles, shape, limit)
    width = max(MIN_WIDTH, limit // 2)
    generator = torch.Generator().manual_seed(seed)
    start_NW = torch.linalg.qr(torch.randn(shape[1], width, generator=generator).to(device)).Q
    return _krylov(tiles, shape, limit, need, start_NW, products=products)


def stacked_factors(solved: Sequence[Decomposition], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_A [E, R, N] and lora_B [E, M, R] of E decompositions; lower ranks are padded with zeros."""
    rank = max(len(factors.S_R) for factors in solved)
    pairs = [[factor.to("cpu", dtype) for factor in factors.lora()] for factors in solved]
    A_ERN = torch.stack([pad(A, (0, 0, 0, rank - len(A))) for A, _ in pairs])
    return A_ERN, torch.stack([pad(B, (0, rank - B.shape[1])) for _, B in pairs])


def summed_squares(solved: Sequence[Decomposition]) -> list[float]:
    """The squared singular values of several matrices, added in their order from the largest."""
    columns = zip_longest(*(factors.S_R.double().square().tolist() for factors in solved), fillvalue=0.0)
    return [math.fsum(column) for column in columns]


def _exact(tiles: Tiles, shape: tuple[int, int], limit: int) -> Decomposition:
    """By the Gram matrix of the smaller side, in float64, which keeps seven digits of singular values."""
    D_MN = torch.cat([tile.clone() for tile in tiles()])
    wide = shape[0] < shape[1]
    image = D_MN.T if wide else D_MN
    identity = torch.eye(min(shape), device=D_MN.device)
    U, S_R, Vh = _truncated([image], [identity], _gram(image, image), limit)
    U, Vh = (Vh.T, U.T) if wide else (U, Vh)
    return Decomposition(U.contiguous(), S_R, Vh.contiguous(), norm_squared(D_MN), 1, 1.0)


def _krylov(
    tiles: Tiles, shape: tuple[int, int], limit: int, need: Need, Q_NW: torch.Tensor, *, products: str
) -> Decomposition:
    """Randomized block Krylov iteration (Musco and Musco 2015, algorithm 2), stopped by an error estimate.

    Every pass multiplies one block by D^T D, adds it to an orthonormal basis and, since it sees D times the
    block, needs no further pass to project D onto that basis. Where the iteration may stop, D^T is not
    multiplied before it is known to go on: reading the tiles again costs less than that product.
    """
    width = Q_NW.shape[1]
    add_transposed = PRODUCTS[products]
    basis: list[torch.Tensor] = []  # blocks, side by side they are the basis [N, K]
    images: list[torch.Tensor] = []  # D times each block: [M, K]
    gram_KK = torch.zeros(0, 0, dtype=torch.float64, device=Q_NW.device)
    history: list[torch.Tensor] = []
    squares: list[float] = []
    while True:
        Y_MW, Z_NW = torch.empty(shape[0], Q_NW.shape[1], device=Q_NW.device), torch.zeros_like(Q_NW)
        may_stop = len(history) + 1 >= FEWEST
        for D_TN, Y_TW in _with_rows(tiles, Y_MW):
            torch.mm(D_TN, Q_NW, out=Y_TW)
            if not may_stop:
                add_transposed(Z_NW, D_TN, Y_TW)
            if not history:
                squares.append(norm_squared(D_TN))
        total = math.fsum(squares)
        basis.append(Q_NW)
        images.append(Y_MW)
        gram_KK = _extended(gram_KK, torch.cat([_gram(image, Y_MW) for image in images]))
        squares_K = torch.linalg.eigvalsh(gram_KK).flip(0).clamp(min=0).cpu()
        history.append(squares_K)
        left = min(shape) - len(gram_KK)
        excess = excess_error(history, total, need(squares_K, total)) if left else 1.0
        if excess <= TOLERANCE or math.isnan(excess):
            return Decomposition(*_truncated(images, basis, gram_KK, limit), total, len(history), excess)
        if may_stop:
            for D_TN, Y_TW in _with_rows(tiles, Y_MW):
                add_transposed(Z_NW, D_TN, Y_TW)
        Q_NW = _orthonormal(_orthonormal(Z_NW[:, : min(width, left)], basis), basis)


def _with_rows(tiles: Tiles, whole_MW: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each tile with the rows of another matrix that belong to it."""
    row = 0
    for D_TN in tiles():
        yield D_TN, whole_MW[row : row + len(D_TN)]
        row += len(D_TN)


def excess_error(history: list[torch.Tensor], total: float, rank: int) -> float:
    """Error at `rank` over the optimum, estimated from the squared singular values after each pass.

    What a pass adds to the captured energy falls geometrically; the rest of that series is what is missing.
    Infinite until there are three passes to compare; NaN where float32 cannot resolve it. A gain that
    collapses may be convergence or a block that has run out of directions (equal singular values): the next
    pass decides.
    """
    captured = [math.fsum(squares[:rank].tolist()) for squares in history if len(squares) >= rank]
    rest = total - captured[-1] if captured else total
    if rest <= RESOLUTION * total:
        return math.nan
    gains = [max(after - before, 0.0) for before, after in itertools.pairwise(captured)]
    ratios = [after / before if before else 0.0 for before, after in itertools.pairwise(gains)]
    if not ratios or (ratios[-1] < COLLAPSE and (len(ratios) < 2 or ratios[-2] >= COLLAPSE)):
        return math.inf
    missing = gains[-1] * ratios[-1] / (1 - ratios[-1]) if ratios[-1] < 1 else math.inf
    return math.sqrt(rest / (rest - missing)) if missing < rest else math.inf


def _truncated(
    images: Sequence[torch.Tensor], basis: Sequence[torch.Tensor], gram_KK: torch.Tensor, limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, S and Vh of image @ basis^T from the Gram matrix of the image; null directions become zero."""
    squares, vectors = torch.linalg.eigh(gram_KK)
    S_R = squares.flip(0)[:limit].clamp(min=0).sqrt()
    V_KR = vectors.flip(1)[:, :limit]
    known = S_R.gt(S_R[0] * 1e-7)
    inverse_R = torch.where(known, 1 / S_R, 0.0)
    U_MR = _product(images, (V_KR * inverse_R).float())
    return U_MR, torch.where(known, S_R, 0.0).float(), _product(basis, V_KR.float()).T


def _product(blocks: Sequence[torch.Tensor], factor_KR: torch.Tensor) -> torch.Tensor:
    """Blocks side by side, times a factor."""
    parts = torch.split(factor_KR, [block.shape[1] for block in blocks])
    total = blocks[0] @ parts[0]
    for block, part in zip(blocks[1:], parts[1:], strict=True):
        total.addmm_(block, part)
    return total


def _orthonormal(block_NW: torch.Tensor, basis: Sequence[torch.Tensor]) -> torch.Tensor:
    """What of a block is orthogonal to the basis, orthonormalised."""
    rest_NW = block_NW.clone()
    for Q_NK in basis:
        rest_NW.addmm_(Q_NK, Q_NK.T @ rest_NW, alpha=-1)
    Q_NW: torch.Tensor = torch.linalg.qr(rest_NW).Q
    return Q_NW


def _gram(left_MK: torch.Tensor, right_MW: torch.Tensor) -> torch.Tensor:
    """left^T @ right in float64, some rows at a time, for that takes a copy."""
    total = torch.zeros(left_MK.shape[1], right_MW.shape[1], dtype=torch.float64, device=left_MK.device)
    for left, right in zip(torch.split(left_MK, GRAM_ROWS), torch.split(right_MW, GRAM_ROWS), strict=True):
        total.addmm_(left.double().T, right.double())
    return total


def _extended(gram_KK: torch.Tensor, column_KW: torch.Tensor) -> torch.Tensor:
    """The Gram matrix with one more block of columns, and the rows that mirror them."""
    old, width = len(gram_KK), column_KW.shape[1]
    size = old + width
    grown = torch.empty(size, size, dtype=gram_KK.dtype, device=gram_KK.device)
    grown[:old, :old] = gram_KK
    grown[:, old:] = column_KW
    grown[old:, :old] = column_KW[:old].T
    return grown
