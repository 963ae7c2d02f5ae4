"""The rank that the report recommends for a fine-tune, from its samples alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextgraft._version import __version__
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.study_table import TargetResult
from contextgraft.report.statistics.verdict import ranks_with_both
from contextgraft.report.study import build_study


def recommend(results: Sequence[Path]) -> dict[str, Any]:
    """The content of a recommendation, from the samples of one fine-tune and its grafts.

    `rank` is the smallest rank that brings the long context and keeps the skill, under every needle condition
    that the report judges; None if there is none, and `verdicts` says why. With one condition, it is the rank
    that the report marks as recommended.
    """
    targets = build_study(read_samples(results)).targets
    return {
        "contextgraft": __version__,
        "rank": recommended_rank(targets),
        "verdicts": [
            {
                "condition": target.condition.task if target.condition else None,
                "outcome": target.verdict.outcome.value,
                "rank": target.verdict.rank,
            }
            for target in targets
        ],
    }


def recommended_rank(targets: Sequence[TargetResult]) -> int | None:
    """The smallest rank that does both under every condition; None if there is none."""
    ranks = [
        set(ranks_with_both(target.alone.evidence, {row.model.rank: row.evidence for row in target.grafts}))
        for target in targets
    ]
    return min(set.intersection(*ranks), default=None) if ranks else None
