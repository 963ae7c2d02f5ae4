"""Counts of samples, pooled and turned into proportions with intervals: pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from contextgraft.stats import wilson

NOT_EVALUATED = "not evaluated"
# Methods of the intervals of differences, as page, summary.json and CSV name them
INDEPENDENT = "Newcombe"
PAIRED = "Newcombe for pairs"
BOOTSTRAP = "bootstrap"
STUDENT = "Student's t"


@dataclass(frozen=True)
class Proportion:
    """How many samples of each status, and the sum of the scores (`hits`) of the `n` scored ones.

    The sum is the number of right answers, unless an answer can be partly right. `shortest` and `longest` are
    the prompts' lengths in tokens; `repeats` is how many models answered each prompt (grafts of several
    donors).
    """

    n: int = 0
    hits: float = 0
    truncated: int = 0
    skipped: int = 0
    failed: int = 0
    reason: str | None = None
    shortest: int | None = None
    longest: int | None = None
    repeats: int = 1

    @property
    def total(self) -> int:
        """All samples, scored or not."""
        return self.n + self.unscored

    @property
    def unscored(self) -> int:
        """Samples without a score."""
        return self.truncated + self.skipped + self.failed

    @property
    def score(self) -> float | None:
        """Share of right answers; None if nothing was scored."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the share; rather too wide if answers may be partly right.

        Its n is the number of prompts: several answers to one prompt are not independent.
        """
        return wilson(min(self.hits, self.n) / self.repeats, self.n / self.repeats)

    @property
    def unscored_reason(self) -> str:
        """Why samples have no score, in words; empty if all have one."""
        if not self.total:
            return NOT_EVALUATED
        counts = {"truncated": self.truncated, "skipped": self.skipped, "failed": self.failed}
        text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"{text}: {self.reason}" if text and self.reason else text


def pool(proportions: Iterable[Proportion]) -> Proportion:
    """One proportion of all the samples; of several reasons the first is kept."""
    given = list(proportions)
    shortest = [proportion.shortest for proportion in given if proportion.shortest is not None]
    longest = [proportion.longest for proportion in given if proportion.longest is not None]
    return Proportion(
        n=sum(proportion.n for proportion in given),
        hits=sum(proportion.hits for proportion in given),
        truncated=sum(proportion.truncated for proportion in given),
        skipped=sum(proportion.skipped for proportion in given),
        failed=sum(proportion.failed for proportion in given),
        reason=next((proportion.reason for proportion in given if proportion.reason), None),
        shortest=min(shortest, default=None),
        longest=max(longest, default=None),
    )


@dataclass(frozen=True)
class Difference:
    """Difference of two shares in percentage points, with its 95 % interval and the interval's method."""

    points: float
    low: float
    high: float
    method: str = INDEPENDENT


def difference(after: Proportion, before: Proportion) -> Difference | None:
    """Share of `after` minus share of `before`, in points, with a 95 % interval; None if either has no score.

    The interval is R. G. Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17 (1998) 873-890,
    method 10). It assumes independent samples: for two answers to the same prompts it is too wide.
    """
    if after.score is None or before.score is None:
        return None
    (low_a, high_a), (low_b, high_b) = after.interval, before.interval
    step = after.score - before.score
    low = step - sqrt((after.score - low_a) ** 2 + (high_b - before.score) ** 2)
    high = step + sqrt((high_a - after.score) ** 2 + (before.score - low_b) ** 2)
    return Difference(100 * step, 100 * low, 100 * high)
