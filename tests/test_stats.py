"""The Wilson interval against published values and its own symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.stats import wilson

NEWCOMBE_TABLE_I = [  # Statistics in Medicine 17 (1998), method 3
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), NEWCOMBE_TABLE_I)
def test_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_nothing_asked_tells_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_refuses_nonsense(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson(successes, n, confidence)


@given(st.integers(1, 5000), st.data())
def test_holds_the_share_mirrors_and_narrows(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    inner = wilson(successes, n, 0.8)
    assert low <= inner[0] <= inner[1] <= high
    tenfold = wilson(10 * successes, 10 * n)
    assert tenfold[1] - tenfold[0] < high - low
