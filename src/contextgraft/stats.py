"""Intervals of proportions, of paired differences and of means; effective length of RULER. Pure functions."""

from collections.abc import Mapping, Sequence
from math import comb, cos, pi, sin, sqrt, tan
from statistics import NormalDist
from typing import NamedTuple

from contextgraft.config.ruler_tasks import RULER_TASKS


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, without continuity correction: (low, high), both in [0, 1].

    `successes` may be a sum of scores between 0 and 1: of all such scores with one mean those that are 0 or 1
    vary most, so the interval is then too wide rather than too narrow.
    The interval of an empty sample (n = 0) is (0, 1). Raises ValueError unless 0 <= successes <= n and
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


def newcombe_paired(both: float, first: float, second: float, neither: float) -> tuple[float, float]:
    """95 % interval of p1 - p2 of one paired sample, from its fourfold table: (low, high) in [-1, 1].

    `both` and `neither` count agreeing pairs, `first` pairs that only the first got right, `second` the rest;
    the counts may be fractions. Two Wilson intervals are joined with their correlation, which is corrected
    for continuity. The interval of an empty sample is (-1, 1). Source: R. G. Newcombe, Statistics in Medicine
    17 (1998) 2635-2650, method 10.
    """
    n = both + first + second + neither
    if n <= 0:
        return -1.0, 1.0
    p1, p2 = (both + first) / n, (both + second) / n
    (low1, high1), (low2, high2) = (wilson(min(p * n, n), n) for p in (p1, p2))
    phi = _phi(both, first, second, neither)
    down1, up1, down2, up2 = p1 - low1, high1 - p1, p2 - low2, high2 - p2
    below = max(down1**2 - 2 * phi * down1 * up2 + up2**2, 0.0)
    above = max(up1**2 - 2 * phi * up1 * down2 + down2**2, 0.0)
    return p1 - p2 - sqrt(below), p1 - p2 + sqrt(above)


def _phi(both: float, first: float, second: float, neither: float) -> float:
    """Correlation of a fourfold table; a positive one is corrected for continuity, no further than to 0."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins <= 0:
        return 0.0
    product = both * neither - first * second
    if product > 0:
        product = max(product - (both + first + second + neither) / 2, 0.0)
    return product / sqrt(margins)


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided p-value of McNemar's test, for `first` and `second` disagreements in either direction.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, with binomial instead of normal probabilities.
    """
    n = first + second
    tail = sum(comb(n, count) for count in range(min(first, second) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t for whole degrees of freedom: |t| stays below it with `confidence`.

    By bisection of the finite sums in Abramowitz and Stegun, 26.7.3 and 26.7.4. ValueError unless
    freedom >= 1 and 0 < confidence < 1.
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"expected freedom >= 1 and 0 < confidence < 1, received {freedom}, {confidence}")
    low, high = 0.0, pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < confidence else (low, middle)
    return sqrt(freedom) * tan(low)


def _t_within(theta: float, freedom: int) -> float:
    """Probability that |t| < sqrt(freedom) * tan(theta)."""
    even = freedom % 2 == 0
    term = 1.0 if even else cos(theta)
    total = term if freedom > 1 else 0.0
    for step in range(2 if even else 3, freedom - 1, 2):
        term *= cos(theta) ** 2 * (step - 1) / step
        total += term
    return sin(theta) * total if even else 2 / pi * (theta + sin(theta) * total)


def t_interval(mean: float, deviation: float, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of a mean of `n` independent values with sample standard `deviation`; None for n < 2.

    Source: Student, Biometrika 6 (1908) 1-25.
    """
    if n < 2:
        return None
    half = t_quantile(n - 1, confidence) * deviation / sqrt(n)
    return mean - half, mean + half


CHAT_THRESHOLD = 85.6  # percent: Llama-2-7B-chat, in its chat template, at the 4096 tokens it was made for
BASE_THRESHOLD = 79.4  # percent: Llama-2-7B, without a template (RULER's appendix)


class EffectiveLength(NamedTuple):
    """Length in tokens, 0 if none exceeds the threshold; None if `missing` tasks lack results.

    `rising` and `falling` are RULER's averages over the lengths, whose weights rise or fall linearly.
    """

    length: int | None
    missing: tuple[str, ...]
    rising: float | None = None
    falling: float | None = None


def effective_length(
    scores: Mapping[int, Mapping[str, float]], threshold: float = BASE_THRESHOLD
) -> EffectiveLength:
    """The longest length at which the mean over RULER's 13 tasks exceeds the threshold, and RULER's averages.

    `scores` has the mean score of each task in percent, by length and task. Without results of all tasks at
    all lengths there is no value, because the mean of RULER is over all 13. Source: C.-P. Hsieh et al., RULER
    (2024), https://arxiv.org/abs/2404.06654, section 4.
    """
    missing = tuple(name for name in RULER_TASKS if not scores or any(name not in s for s in scores.values()))
    if missing:
        return EffectiveLength(None, missing)
    means = {
        length: sum(by_task[task] for task in RULER_TASKS) / len(RULER_TASKS)
        for length, by_task in sorted(scores.items())
    }
    longest = max((n for n, mean in means.items() if mean > threshold), default=0)
    values = list(means.values())
    return EffectiveLength(longest, (), rising_mean(values), rising_mean(values[::-1]))


def rising_mean(values: Sequence[float]) -> float:
    """The mean with the weights 1, 2, 3 and so on."""
    weights = range(1, len(values) + 1)
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def mean_of_shares(shares: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The mean of independent shares, each with its number of successes and n, with a 95 % interval.

    The Wilson intervals of the shares are combined by the method of variance estimates recovery. Source:
    G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008) 1693-1702.
    """
    pairs = [(hits / n, wilson(hits, n)) for hits, n in shares]
    mean = sum(share for share, _ in pairs) / len(pairs)
    below = sqrt(sum((share - low) ** 2 for share, (low, _) in pairs)) / len(pairs)
    above = sqrt(sum((high - share) ** 2 for share, (_, high) in pairs)) / len(pairs)
    return mean, max(mean - below, 0.0), min(mean + above, 1.0)
