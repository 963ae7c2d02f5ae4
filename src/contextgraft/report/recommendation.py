"""The rank that the report recommends for a fine-tune, from its samples alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contextgraft._version import __version__
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.advice import Advice, RankAdvice, advise
from contextgraft.report.statistics.study_table import TargetResult
from contextgraft.report.statistics.verdict import keeps_skill, strength
from contextgraft.report.study import build_study
from contextgraft.report.tables.wording import other_prompts


def recommend(results: Sequence[Path]) -> dict[str, Any]:
    """The content of a recommendation, from the samples of one fine-tune and its grafts."""
    database = read_samples(results)
    return recommendation(build_study(database).targets, database.rows("evaluated_adapters"))


def recommendation(targets: Sequence[TargetResult], evaluated: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a recommendation, from one fine-tune's results and the adapters that were evaluated.

    A verdict has the numbers of prompts that chose the rank and that it is judged on, where they are split.

    `rank` is that of `advise`; None if there is none, and `reason` says why. `needed` is False if the long
    context works without an adapter, None if no needles were evaluated. `target` and `adapters` are the
    digests of the fine-tune and, by rank, of the adapters that were evaluated, one for each donor.
    """
    advice = advise(targets)
    adapters: dict[str, list[str]] = {}
    for row in evaluated:
        adapters.setdefault(str(row["rank"]), []).append(row["adapter"])
    return {
        "contextgraft": __version__,
        "rank": advice.rank,
        "needed": _needed(targets, advice),
        "reason": _reason(targets, advice),
        "skill_measured": _skill_measured(targets),
        "target": next((row["target"] for row in evaluated), None),
        "adapters": adapters,
        "verdicts": [
            {
                "condition": target.condition.task if target.condition else None,
                "outcome": target.verdict.outcome.value,
                "rank": target.verdict.rank,
                "strength": strength(target.verdict).value,
                **target.verdict.split_sizes,
                "works_without": list(target.verdict.works_without),
            }
            for target in targets
        ],
    }


def _needed(targets: Sequence[TargetResult], advice: RankAdvice) -> bool | None:
    if any(target.condition for target in targets):
        return advice.advice is not Advice.NOT_NEEDED
    return None


def _skill_measured(targets: Sequence[TargetResult]) -> bool:
    return any(
        keeps_skill(row.evidence, target.alone.evidence) is not None
        for target in targets
        for row in target.grafts
    )


def _reason(targets: Sequence[TargetResult], advice: RankAdvice) -> str | None:
    """Why no rank is recommended; None if one is."""
    if advice.advice is Advice.USE:
        return None
    if not targets:
        return "no graft was evaluated"
    if not any(target.condition for target in targets):
        return "no needles were evaluated, without which no rank can be judged"
    if advice.advice is Advice.NOT_NEEDED:
        ways = dict.fromkeys(way for target in targets for way in target.verdict.works_without)
        return f"no adapter is needed: the long context works without one ({', '.join(ways)})"
    if all(target.verdict.passed for target in targets):
        return "no rank passes under every needle condition"
    return "; ".join(f"{_condition(target)}: {_outcome(target)}" for target in targets)


def _outcome(target: TargetResult) -> str:
    verdict = target.verdict
    if verdict.held or verdict.graft is None:
        return verdict.outcome.value
    return f"{verdict.outcome.value} at rank {verdict.rank}, {other_prompts(verdict)}"


def _condition(target: TargetResult) -> str:
    return target.condition.task if target.condition else "no needles"
