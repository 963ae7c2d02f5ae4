"""The scores that a model card shows, as the report computed them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.repocard_data import EvalResult


@dataclass(frozen=True)
class CardShare:
    """A share of right answers: in words, and as numbers with its 95 % interval where it was scored."""

    words: str
    n: int = 0
    score: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class CardScores:
    """One fine-tune's scores, with grafts of one donor.

    `rows` are label, needles and skill of alone, theta only and the graft, which is the last. Needles are
    those at `length` tokens under `condition`. `reached` is the longest length at which the graft found
    enough needles, at it and at all shorter ones that were evaluated; None if there is none.
    """

    title: str
    condition: str
    length: int
    rows: tuple[tuple[str, CardShare, CardShare], ...]
    reached: int | None = None


def reached_by_all(scores: Sequence[CardScores]) -> int | None:
    """The length that was reached under all conditions; None if one reached none, or nothing was measured."""
    lengths = [item.reached or 0 for item in scores]
    return min(lengths, default=0) or None


def evaluation_results(scores: Sequence[CardScores]) -> "list[EvalResult]":
    """The scores of the grafts as the hub's evaluation results; each names its fine-tune."""
    return [result for item in scores for result in _results(item)]


def _results(scores: CardScores) -> "Iterator[EvalResult]":
    from huggingface_hub.repocard_data import EvalResult

    _, needle, skill = scores.rows[-1]
    measured = (
        (
            "needle in a haystack",
            f"{scores.title}: {scores.condition}, {scores.length} tokens",
            needle,
            scores.length,
        ),
        ("own skill", f"{scores.title}: own skill", skill, None),
    )
    for task, data, share, length in measured:
        if share.score is None:
            continue
        low, high = share.interval
        yield EvalResult(
            task_type="text-generation",
            task_name=task,
            dataset_type="-".join(data.lower().split()),
            dataset_name=data,
            metric_type="accuracy",
            metric_name=f"share right, n={share.n}",
            metric_value=round(share.score, 6),
            metric_args={
                "n": share.n,
                "low": round(low, 6),
                "high": round(high, 6),
                **({"length": length} if length is not None else {}),
            },
        )
