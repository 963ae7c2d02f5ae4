"""Scores of lm-evaluation-harness by document, paired for a fine-tune and its graft: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from contextgraft.report.statistics.clusters import bootstrap_mean
from contextgraft.report.statistics.paired import ENOUGH_TEXTS, PairCounts
from contextgraft.stats import t_interval


@dataclass(frozen=True)
class DocumentScores:
    """Scores of one model in one task: by metric, then by document; None where a score is not a number.

    `hashes` has the digests of each document and of the prompt that was made of it.
    """

    model: str
    task: str
    hashes: Mapping[int, tuple[str, str]]
    scores: Mapping[str, Mapping[int, float | None]]


@dataclass(frozen=True)
class DocumentPairs:
    """One metric of a fine-tune and its graft on the same `n` documents; `reason` says why there is none.

    `before` and `after` are the means of fine-tune and graft, `interval` that of `difference`, graft minus
    fine-tune; `p_value` is of scores that are 0 or 1 only.
    """

    fine_tune: str
    graft: str
    task: str
    metric: str
    n: int = 0
    before: float = 0.0
    after: float = 0.0
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    reason: str = ""

    @property
    def difference(self) -> float:
        """The graft's mean minus the fine-tune's."""
        return self.after - self.before


def metric_pairs(fine_tune: DocumentScores, graft: DocumentScores) -> list[DocumentPairs]:
    """The pairs of every metric of a task whose documents are the same on both sides."""
    pairs = []
    for metric in dict.fromkeys([*fine_tune.scores, *graft.scores]):
        sides = [side.scores.get(metric, {}) for side in (fine_tune, graft)]
        names = fine_tune.model, graft.model, fine_tune.task, metric
        if sides[0].keys() != sides[1].keys():
            pairs.append(DocumentPairs(*names, reason="not of the same documents"))
            continue
        before, after = ([score for _, score in sorted(side.items()) if score is not None] for side in sides)
        if not len(before) == len(after) == len(sides[0]):
            pairs.append(DocumentPairs(*names, reason="a score is not a number"))
            continue
        pairs.append(compared(names, before, after))
    return pairs


def compared(
    names: tuple[str, str, str, str], before: Sequence[float], after: Sequence[float]
) -> DocumentPairs:
    """Means, difference and its 95 % interval from the scores of the same documents in the same order.

    Where all scores are 0 or 1: Newcombe's interval for pairs and McNemar's exact test. Else the percentile
    bootstrap of the mean difference over documents; of fewer than `ENOUGH_TEXTS` Student's t interval. None
    where all differ by the same.
    """
    n, means = len(before), (sum(before) / len(before), sum(after) / len(after))
    if {*before, *after} <= {0.0, 1.0}:
        counts = fourfold(before, after)
        points = counts.difference
        assert points is not None, "a task has documents"
        return DocumentPairs(*names, n, *means, (points.low / 100, points.high / 100), counts.p_value)
    steps = [second - first for first, second in zip(before, after, strict=True)]
    interval = bootstrap_mean(steps)
    if interval and n < ENOUGH_TEXTS:
        interval = t_interval(sum(steps) / n, stdev(steps), n)
    return DocumentPairs(*names, n, *means, interval)


def fourfold(before: Sequence[float], after: Sequence[float]) -> PairCounts:
    """The fourfold table of right and wrong answers; the first side is `after`."""
    both = sum(first * second for first, second in zip(before, after, strict=True))
    gained, lost, n = sum(after) - both, sum(before) - both, len(before)
    return PairCounts(
        n, both, gained, lost, n - both - gained - lost, int(gained), int(lost), n - int(gained + lost)
    )
