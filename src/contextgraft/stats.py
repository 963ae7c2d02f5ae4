"""Intervals of proportions, pure."""

from math import sqrt
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, without continuity correction: (low, high), both in [0, 1].

    Nothing asked (n = 0) tells nothing: (0, 1). Raises ValueError unless 0 <= successes <= n and
    0 < confidence < 1. Source: E. B. Wilson, JASA 22 (1927) 209-212; method 3 of R. G. Newcombe, Statistics
    in Medicine 17 (1998) 857-872, whose Table I the tests repeat.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, received {successes} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected 0 < confidence < 1, received {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high
