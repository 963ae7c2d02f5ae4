"""Low-rank factors: as good as the full decomposition, nested, and the same however the matrix comes."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from contextgraft.adapter.extract.products import PRODUCTS, fastest_products
from contextgraft.adapter.extract.svd import Decomposition, Tiles, factorise

ROWS = 256


def matrix(rows: int, columns: int, decay: float = 0.7, noise: float = 1e-3) -> torch.Tensor:
    """A power-law spectrum over a noise floor, as real deltas have."""
    generator = torch.Generator().manual_seed(rows + columns)
    left = torch.linalg.qr(torch.randn(rows, 200, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, 200, generator=generator)).Q
    spectrum = torch.arange(1, 201) ** -decay
    low: torch.Tensor = (left * spectrum) @ right.T
    return low + noise * torch.randn(rows, columns, generator=generator)


def tiles(D: torch.Tensor) -> Tiles:
    return lambda: (D[start : start + ROWS] for start in range(0, len(D), ROWS))


def decompose(D: torch.Tensor, rank: int, seed: int, products: str = "float32") -> Decomposition:
    return factorise(
        tiles(D), (len(D), D.shape[1]), limit=rank, need=lambda squares, total: rank, seed=seed,
        products=products,
    )  # fmt: skip


def product(factors: Decomposition, rank: int) -> torch.Tensor:
    lora_A, lora_B = factors.lora()
    return lora_B[:, :rank].double() @ lora_A[:rank].double()


@pytest.mark.parametrize("shape", [(700, 1100), (1100, 700), (513, 600), (2048, 300)])
def test_error_is_close_to_the_optimum_at_every_rank(shape: tuple[int, int]) -> None:
    D = matrix(*shape)
    factors = decompose(D, 64, 1)
    spectrum = torch.linalg.svdvals(D.double())
    for rank in (1, 4, 16, 32, 64):
        optimum = float(spectrum[rank:].norm())
        error = float((D.double() - product(factors, rank)).norm())
        captured = factors.S_R[:rank].double().square().sum()
        assert error <= 1.005 * optimum
        assert error == pytest.approx(float((D.double().norm() ** 2 - captured).sqrt()), rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 300), (300, 8), (96, 64)])
def test_small_matrices_are_exact_and_ranks_clamped(shape: tuple[int, int]) -> None:
    D = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    factors = decompose(D, 64, 1)
    assert len(factors.S_R) == min(64, *shape)
    torch.testing.assert_close(product(factors, 64).float(), D, rtol=1e-4, atol=1e-5)


def test_an_exactly_low_rank_matrix_is_found() -> None:
    generator = torch.Generator().manual_seed(3)
    D = torch.randn(900, 5, generator=generator) @ torch.randn(5, 800, generator=generator)
    factors = decompose(D, 8, 1)
    assert float((D - product(factors, 8)).norm() / D.norm()) < 1e-5


def test_both_factors_carry_the_root_of_the_spectrum() -> None:
    D = matrix(400, 300)
    factors = decompose(D, 8, 1)
    lora_A, lora_B = factors.lora()
    torch.testing.assert_close(lora_A.norm(dim=1), factors.S_R.sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(lora_B.norm(dim=0), factors.S_R.sqrt(), rtol=1e-4, atol=0)


def test_the_seed_decides_and_nothing_else() -> None:
    D = matrix(700, 600)
    runs = [decompose(D, 16, seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].U_MR, runs[1].U_MR)
    assert not torch.equal(runs[0].U_MR, runs[2].U_MR)


def power_law(rows: int, columns: int, decay: float) -> torch.Tensor:
    """All singular values k^-decay: a tail without an end, as whole fine-tunes have."""
    generator = torch.Generator().manual_seed(5)
    side = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, side, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, side, generator=generator)).Q
    spectrum = torch.arange(1, side + 1) ** -decay
    product: torch.Tensor = (left * spectrum) @ right.T
    return product


def stairs(rows: int, columns: int, high: int) -> torch.Tensor:
    """`high` singular values of 1, all others 0.9: a block narrower than that runs out of directions."""
    generator = torch.Generator().manual_seed(8)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q
    spectrum = torch.full((rows,), 0.9)
    spectrum[:high] = 1
    product: torch.Tensor = (left * spectrum) @ right.T
    return product


SPECTRA = {
    "tail 0.2": lambda: power_law(900, 1100, 0.2),
    "tail 0.5": lambda: power_law(1100, 900, 0.5),
    "tail 1": lambda: power_law(900, 900, 1.0),
    "noise floor": lambda: matrix(900, 1100, decay=0.7, noise=1e-2),
    "equal values": lambda: stairs(900, 1100, 40),
    "noise alone": lambda: torch.randn(900, 1100, generator=torch.Generator().manual_seed(6)),
}


@cache
def with_spectrum(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of SPECTRA and its singular values in float64, which take most of the time of these tests."""
    D = SPECTRA[kind]()
    return D, torch.linalg.svdvals(D.double())


@pytest.mark.parametrize(
    ("rank", "products"), [*((rank, "float32") for rank in (8, 32, 64, 128)), (64, "bfloat16")]
)
@pytest.mark.parametrize("kind", SPECTRA)
def test_it_stops_within_the_promise_and_says_how_far(kind: str, rank: int, products: str) -> None:
    D, spectrum = with_spectrum(kind)
    factors = decompose(D, rank, 1, products)
    true = float((D.double() - product(factors, rank)).norm()) / float(spectrum[rank:].norm())
    assert true >= 1 - 1e-6
    assert true <= 1.005
    assert factors.passes > 2
    assert factors.excess == pytest.approx(true, abs=0.004)
    assert factors.total == pytest.approx(float(D.double().square().sum()), rel=1e-6)


def test_a_rank_by_energy_is_decided_on_the_way() -> None:
    D = power_law(900, 1100, 1.0)

    def need(squares: torch.Tensor, total: float) -> int:
        return int((squares.cumsum(0) < 0.9 * total).sum()) + 1

    factors = factorise(tiles(D), (900, 1100), limit=128, need=need, seed=1)
    whole = torch.linalg.svdvals(D.double()).square()
    expected = need(whole, float(whole.sum()))
    assert need(factors.S_R.double().square(), factors.total) == expected < 128


def test_an_error_below_float32_is_not_given_a_figure() -> None:
    generator = torch.Generator().manual_seed(3)
    D = torch.randn(900, 5, generator=generator) @ torch.randn(5, 800, generator=generator)
    assert math.isnan(decompose(D, 8, 1).excess)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 fma", "float32"), ("avx512f avx512_bf16", "bfloat16"), ("amx_tile amx_bf16", "bfloat16")],
)
def test_products_are_chosen_by_the_kind_of_processor(flags: str, expected: str, tmp_path: Path) -> None:
    processor = tmp_path / "cpuinfo"
    processor.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert fastest_products("cpu", processor) == expected
    assert fastest_products("cuda", processor) == "float32"
    assert fastest_products("cpu", tmp_path / "missing") == "float32"


def test_only_the_subspace_depends_on_the_products() -> None:
    D = matrix(900, 1100)
    exact, rounded = (decompose(D, 32, 1, products) for products in PRODUCTS)
    assert not torch.equal(exact.U_MR, rounded.U_MR)
    error = float((D.double() - product(rounded, 32)).square().sum())  # of a projection, not of rounding
    assert error == pytest.approx(exact.total - float(rounded.S_R.double().square().sum()), rel=1e-4)
