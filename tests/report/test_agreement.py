"""Verdict, strength, sentence, headline, overview, matrix and recommendation say the same of a fine-tune."""

from dataclasses import replace
from itertools import product

import pytest

from contextgraft.report.page import badges
from contextgraft.report.recommendation import recommendation
from contextgraft.report.statistics.advice import Advice, with_advice
from contextgraft.report.statistics.cells import Cell, ModelKey, NeedleCondition
from contextgraft.report.statistics.proportion import Proportion
from contextgraft.report.statistics.rank_matrix import RECOMMENDED, mark
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult
from contextgraft.report.statistics.verdict import (
    RECOMMENDED_OUTCOMES,
    Evidence,
    RankEvidence,
    Strength,
    VerdictOutcome,
    judge,
    strength,
)
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.tables.headline import headline
from contextgraft.report.tables.overview import overview
from contextgraft.report.tables.wording import sentence

OUTCOMES = [outcome for outcome in VerdictOutcome if outcome is not VerdictOutcome.UNKNOWN]
PASSED, SKILL = {VerdictOutcome.BOTH, VerdictOutcome.SKILL_UNKNOWN}, 100
Split = dict[int, VerdictOutcome]  # by rank


def scores(outcome: VerdictOutcome, prompts: int) -> Evidence:
    """A graft with the outcome, against a fine-tune with the whole skill."""
    needles = 0 if outcome is VerdictOutcome.NEITHER else prompts
    skill = {VerdictOutcome.SKILL_UNKNOWN: Proportion(), VerdictOutcome.CONTEXT_ONLY: Proportion(SKILL, 50)}
    return Evidence(Cell(Proportion(prompts, needles)), Cell(skill.get(outcome, Proportion(SKILL, SKILL))))


def evidence(split: Split, prompts: int) -> RankEvidence:
    alone = Evidence(Cell(Proportion(prompts, 0)), Cell(Proportion(SKILL, SKILL)))
    return RankEvidence(alone, {rank: scores(outcome, prompts) for rank, outcome in split.items()})


def target(task: str, chose: Split, judged: Split) -> TargetResult:
    choosing, used = evidence(chose, 25), evidence(judged, 75)
    verdict = judge(used.alone, used.alone, used.grafts, choosing=choosing)
    condition = NeedleCondition(task, 0)

    def row(model: ModelKey, own: Evidence) -> ModelRow:
        return ModelRow(model, "row", condition, own.needle, own.needle, own.skill)

    rows = [row(ModelKey("alone", "d"), used.alone), row(ModelKey("theta", "d", 0, 0.0), used.alone)]
    rows += [row(ModelKey("graft", "d", rank, 1.0), own) for rank, own in used.grafts.items()]
    return TargetResult("tune", "d", condition, tuple(rows), verdict, choosing, used)


def study(*targets: TargetResult) -> StudyTable:
    return with_advice(StudyTable(None, 128, 1024, (), targets, (), ()))


def check(table: StudyTable) -> int | None:
    """Everything that is said of the study; returns the rank to use."""
    content = recommendation(table.targets, [])
    shown = 0
    for own, row, stated in zip(
        table.targets, overview(table, WeightRecords()), content["verdicts"], strict=True
    ):
        verdict, words = own.verdict, sentence(own.verdict, "L")
        assert row.strength.text == stated["strength"] == strength(verdict).value
        assert row.rank == stated["rank"] == verdict.rank
        assert stated["outcome"] == verdict.outcome.value
        assert own.best is None or (mark(own, own.best) == RECOMMENDED) == (verdict.rank == content["rank"])
        used = row.advice is Advice.USE
        assert used == (content["rank"] is not None) == verdict.advised
        passed = verdict.outcome in PASSED and verdict.chosen is verdict.outcome
        if used:
            assert passed
            assert row.rank == content["rank"]
            assert strength(verdict) is not Strength.NOT_SHOWN
        shown += verdict.outcome is VerdictOutcome.BOTH and passed
        assert (strength(verdict) is Strength.NOT_SHOWN) is not passed
        assert ("so this is not shown" in words) == (verdict.outcome in PASSED and not passed)
        assert ("not on the prompts that chose the rank" in {badge.text for badge in badges(own)}) == (
            verdict.outcome in PASSED and not passed
        )
        assert ("passed on" not in words) or verdict.chosen in RECOMMENDED_OUTCOMES
        assert ("smallest rank for both" in words) == (verdict.outcome is VerdictOutcome.BOTH and passed)
        assert "prompts" in words
    counted = headline([own.verdict for own in table.targets], "L")
    assert ("likely for" in counted.split(":", 1)[1].split("Established")[0]) == (shown > 0)
    rank: int | None = content["rank"]
    return rank


@pytest.mark.parametrize(("chose", "judged"), product(OUTCOMES, OUTCOMES))
def test_one_condition(chose: VerdictOutcome, judged: VerdictOutcome) -> None:
    own = target("n", {4: chose}, {4: judged})
    assert (own.verdict.chosen, own.verdict.outcome) == (chose, judged)
    table = study(own)
    recommended = chose is judged and judged in PASSED
    assert check(table) == (4 if recommended else None)
    reason = recommendation(table.targets, [])["reason"]
    assert (reason is None) == recommended
    assert reason is None or reason.startswith(f"n: {judged.value}")
    assert reason is None or ("passed" in reason) == (chose in PASSED)


@pytest.mark.parametrize("outcomes", product(OUTCOMES, repeat=4))
def test_two_conditions_with_two_ranks(outcomes: tuple[VerdictOutcome, ...]) -> None:
    """One condition passes at both ranks where it is judged, the other has every outcome."""
    both = VerdictOutcome.BOTH
    easy = target("easy", {1: both, 8: both}, {1: outcomes[0], 8: outcomes[1]})
    hard = target("hard", {1: outcomes[2], 8: both}, {1: outcomes[2], 8: outcomes[3]})
    check(study(easy, hard))


def test_a_rank_of_another_condition_has_its_own_scores() -> None:
    """Rank 1 was chosen and failed; rank 8, which the other condition needs, is the one to use."""
    both, neither = VerdictOutcome.BOTH, VerdictOutcome.NEITHER
    easy = target("easy", {1: both, 8: both}, {1: neither, 8: both})
    hard = target("hard", {1: neither, 8: both}, {1: neither, 8: both})
    table = study(easy, hard)
    assert check(table) == 8
    assert [row.strength.text for row in overview(table, WeightRecords())] == ["likely", "likely"]
    words = (
        "smallest rank for both with a margin under every needle condition, chosen on 25 other prompts: 8."
    )
    assert words in sentence(table.targets[0].verdict, "L")


def test_the_margin_holds_under_every_condition() -> None:
    """Rank 4 passes under both conditions, with a margin under one; rank 8 has it under both."""
    own = target(
        "n",
        {4: VerdictOutcome.BOTH, 8: VerdictOutcome.BOTH},
        {4: VerdictOutcome.BOTH, 8: VerdictOutcome.BOTH},
    )
    close = replace(own.choosing.grafts[4], needle=Cell(Proportion(25, 24)))
    choosing = replace(own.choosing, grafts={**own.choosing.grafts, 4: close})
    verdict = judge(own.judged.alone, own.judged.alone, own.judged.grafts, choosing=choosing)
    other = replace(own, condition=NeedleCondition("other", 0), choosing=choosing, verdict=verdict)
    assert [item.verdict.rank for item in (own, other)] == [4, 8]
    assert check(study(own, other)) == 8


def test_an_unmeasured_skill_says_on_what_the_rank_was_chosen() -> None:
    unknown = VerdictOutcome.SKILL_UNKNOWN
    (own,) = study(target("n", {4: unknown}, {4: unknown})).targets
    assert "with rank 4, chosen on 25 other prompts; the skill was not measured" in sentence(own.verdict, "L")


def test_a_rank_that_failed_where_it_was_chosen_is_named_as_such() -> None:
    (own,) = study(target("n", {4: VerdictOutcome.NEITHER}, {4: VerdictOutcome.CONTEXT_ONLY})).targets
    assert "rank 4, the graft that failed least on 25 other prompts." in sentence(own.verdict, "L")
    assert recommendation([own], [])["reason"] == (
        "n: context only at rank 4, which failed on the prompts that chose it"
    )
