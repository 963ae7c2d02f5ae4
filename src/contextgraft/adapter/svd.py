"""The best low-rank approximation of a matrix that is seen only as tiles of rows. Tensors in, tensors out.

Legend of shape suffixes: M rows, N columns, K width of the sketch, R rank.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

TILE_ROWS = (
    256  # fixed, for the order of summation decides the last bits: results do not depend on block sizes
)
ITERATIONS = 3

Tiles = Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Factors:
    """Truncated decomposition U S Vh in float32; every smaller rank is a slice of it."""

    U_MR: torch.Tensor
    S_R: torch.Tensor
    Vh_RN: torch.Tensor

    def lora(self) -> tuple[torch.Tensor, torch.Tensor]:
        """lora_A [R, N] and lora_B [M, R] with B @ A = U S Vh, the root of S on both: neither is tiny."""
        root_R = self.S_R.sqrt()
        return root_R[:, None] * self.Vh_RN, self.U_MR * root_R


def factorise(tiles: Tiles, shape: tuple[int, int], rank: int, seed: int) -> Factors:
    """Factors of the [M, N] float32 matrix whose rows `tiles()` yields, TILE_ROWS at a time.

    Exact where a dimension is at most twice the sketch; else randomized subspace iteration (Halko,
    Martinsson, Tropp 2011, algorithm 4.4 on the rows' side) in 1 + ITERATIONS passes. Rank is clamped to the
    smaller side.
    """
    width = rank + max(16, rank // 8)
    if min(shape) <= 2 * width:
        return _truncated(torch.cat(list(tiles())), rank)
    Q_NK = _row_space(tiles, shape[1], width, seed)
    Y_MK = torch.cat([D_TN @ Q_NK for D_TN in tiles()])
    small = _truncated(Y_MK, rank)
    return Factors(small.U_MR, small.S_R, small.Vh_RN @ Q_NK.T)


def _row_space(tiles: Tiles, columns: int, width: int, seed: int) -> torch.Tensor:
    """An orthonormal [N, K] basis near the leading right singular vectors.

    Each pass multiplies by D^T D, which is a whole power iteration, and orthonormalises again.
    """
    generator = torch.Generator().manual_seed(seed)
    Q_NK: torch.Tensor = torch.linalg.qr(torch.randn(columns, width, generator=generator)).Q
    for _ in range(ITERATIONS):
        Z_NK = torch.zeros(columns, width)
        for D_TN in tiles():
            Z_NK.addmm_(D_TN.T, D_TN @ Q_NK)
        Q_NK = torch.linalg.qr(Z_NK).Q
    return Q_NK


def _truncated(matrix: torch.Tensor, rank: int) -> Factors:
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(U[:, :rank].contiguous(), S[:rank].contiguous(), Vh[:rank].contiguous())
