"""Counts of samples, pooled and turned into proportions with intervals: pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from contextgraft.stats import wilson


@dataclass(frozen=True)
class Tally:
    """How many samples of each status, and the sum of the scores of the `n` scored ones.

    The sum is the number of right answers, unless an answer can be right in part.
    """

    n: int = 0
    hits: float = 0
    truncated: int = 0
    skipped: int = 0
    failed: int = 0
    reason: str | None = None
    shortest: int | None = None
    longest: int | None = None

    @property
    def asked(self) -> int:
        """All samples, scored or not."""
        return self.n + self.unscored

    @property
    def unscored(self) -> int:
        """Samples without a score."""
        return self.truncated + self.skipped + self.failed

    @property
    def score(self) -> float | None:
        """Share of right answers; None where nothing was scored."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the share; if anything too wide where answers may be right in part."""
        return wilson(min(self.hits, self.n), self.n)

    @property
    def gap(self) -> str:
        """Why samples have no score, in words; empty where all have one."""
        if not self.asked:
            return "not asked"
        counts = {"truncated": self.truncated, "skipped": self.skipped, "failed": self.failed}
        words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"{words}: {self.reason}" if words and self.reason else words


def pool(tallies: Iterable[Tally]) -> Tally:
    """One tally of all the samples; the first reason stands for the others."""
    parts = list(tallies)
    lengths = [part.shortest for part in parts if part.shortest is not None]
    longest = [part.longest for part in parts if part.longest is not None]
    return Tally(
        n=sum(part.n for part in parts),
        hits=sum(part.hits for part in parts),
        truncated=sum(part.truncated for part in parts),
        skipped=sum(part.skipped for part in parts),
        failed=sum(part.failed for part in parts),
        reason=next((part.reason for part in parts if part.reason), None),
        shortest=min(lengths, default=None),
        longest=max(longest, default=None),
    )


@dataclass(frozen=True)
class Difference:
    """Difference of two shares in points, with its interval."""

    points: float
    low: float
    high: float


def difference(after: Tally, before: Tally) -> Difference | None:
    """Share of `after` minus share of `before`, in points, with a 95 % interval; None if either has none.

    The interval is R. G. Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17 (1998) 873-890,
    method 10). It takes the samples for independent: for the same prompts asked twice it is too wide.
    """
    if after.score is None or before.score is None:
        return None
    (low_a, high_a), (low_b, high_b) = after.interval, before.interval
    step = after.score - before.score
    low = step - sqrt((after.score - low_a) ** 2 + (high_b - before.score) ** 2)
    high = step + sqrt((high_a - after.score) ** 2 + (before.score - low_b) ** 2)
    return Difference(100 * step, 100 * low, 100 * high)
