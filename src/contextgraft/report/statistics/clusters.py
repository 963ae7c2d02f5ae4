"""Intervals over texts, where several questions share one text: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from contextgraft.report.statistics.cells import ModelKey, NeedleCondition, model_key
from contextgraft.report.statistics.grouping import group_by

SEED = 19
RESAMPLES = 2000
MOST_DRAWN = 1_000_000  # values at a time, for the memory
DIGITS = 9  # of shares that are compared: sums of fractions have rounding errors
TextKey = tuple[ModelKey, NeedleCondition, int]  # and the length


@dataclass(frozen=True)
class TextShares:
    """For each text the number of its scored questions, over all depths and donors, and the sum of scores."""

    counts: tuple[tuple[int, float], ...]

    @property
    def texts(self) -> int:
        """The number of texts."""
        return len(self.counts)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of the share; None where all texts have the same share."""
        return bootstrap_share(self.counts)


def bootstrap_share(texts: Sequence[tuple[int, float]]) -> tuple[float, float] | None:
    """Percentile bootstrap of a pooled share, (low, high): whole texts are drawn, not their questions.

    `texts` has n and the sum of scores of each. None with fewer than two texts, and where all have the same
    share, of which resampling says nothing. The seed is fixed, so the same texts have the same interval.
    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
    """
    if len({round(hits / n, DIGITS) for n, hits in texts}) < 2:
        return None
    drawn_RT = _resamples(len(texts))
    n_T, hits_T = (np.array(column, float) for column in zip(*texts, strict=True))
    shares_R = (drawn_RT @ hits_T) / (drawn_RT @ n_T)
    low, high = np.quantile(shares_R, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_difference(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> tuple[float, float] | None:
    """Percentile bootstrap of the first pooled share minus the second, (low, high): both of the same texts.

    As `bootstrap_share`: a text is drawn with the answers of both sides, so the interval is a paired one.
    None with fewer than two texts, and where all have the same difference.
    """
    pairs = zip(first, second, strict=True)
    steps = {round(hits / n - other / m, DIGITS) for (n, hits), (m, other) in pairs}
    if len(steps) < 2:
        return None
    drawn_RT = _resamples(len(first))
    shares_R = []
    for texts in (first, second):
        n_T, hits_T = (np.array(column, float) for column in zip(*texts, strict=True))
        shares_R.append((drawn_RT @ hits_T) / (drawn_RT @ n_T))
    low, high = np.quantile(shares_R[0] - shares_R[1], (0.025, 0.975))
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap of a mean, (low, high); None where all values are the same.

    The seed is fixed, so the same values have the same interval. Source: as above.
    """
    if len(set(values)) < 2:
        return None
    generator = np.random.Generator(np.random.PCG64(SEED))
    numbers, block = np.array(values, float), max(1, MOST_DRAWN // len(values))
    means = [
        numbers[generator.integers(len(numbers), size=(min(block, RESAMPLES - start), len(numbers)))].mean(1)
        for start in range(0, RESAMPLES, block)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=8)
def _resamples(texts: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """How often each text is drawn in each resample, [R, T]."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    drawn_RT = generator.integers(texts, size=(RESAMPLES, texts))
    return np.stack([np.bincount(row, minlength=texts) for row in drawn_RT]).astype(float)


def texts_by_cell(rows: Iterable[Mapping[str, Any]]) -> dict[TextKey, TextShares]:
    """The rows of sql/texts.sql by model, condition and length, where some texts have several questions."""
    groups = group_by(rows, text_key)
    shares = {key: TextShares(tuple((row["n"], row["hits"]) for row in own)) for key, own in groups.items()}
    return {key: item for key, item in shares.items() if any(n > 1 for n, _ in item.counts)}


def text_key(row: Mapping[str, Any]) -> TextKey:
    """The model, needle condition and length of a row of a query."""
    names = ("task", "distractors", "kind", "haystack", "chat")
    return model_key(row), NeedleCondition(*(row[name] for name in names)), row["length"]
