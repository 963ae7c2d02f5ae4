"""The rules of the verdict, one by one."""

from dataclasses import replace

import pytest

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import PairCounts
from contextgraft.report.statistics.proportion import Proportion
from contextgraft.report.statistics.verdict import (
    Evidence,
    RankEvidence,
    VerdictOutcome,
    has_context,
    judge,
    keeps_skill,
)
from contextgraft.report.tables.headline import headline
from contextgraft.report.tables.wording import sentence

WHERE = "1,024 tokens (8× the base)"
NOTHING = Cell(Proportion())


def of(hits: int, n: int = 100) -> Cell:
    return Cell(Proportion(n=n, hits=hits))


def evidence(needle: int, skill: int) -> Evidence:
    return Evidence(of(needle), of(skill))


ALONE = evidence(0, 99)
THETA = evidence(44, 98)


@pytest.mark.parametrize(("hits", "expected"), [(95, True), (94, False), (100, True), (0, False)])
def test_the_context_came_from_95_percent_on(hits: int, expected: bool) -> None:
    assert has_context(of(hits)) is expected


@pytest.mark.parametrize(("hits", "expected"), [(98, True), (97, False), (100, True)])
def test_the_skill_may_lose_two_points_and_no_more(hits: int, expected: bool) -> None:
    assert keeps_skill(evidence(0, hits), evidence(0, 100)) is expected


@pytest.mark.parametrize(
    ("choosing", "rank"),
    [
        ({4: (96, 99), 8: (97, 99), 16: (98, 99)}, 16),  # 96 - 2.0 and 97 - 1.7 are below 95, 98 - 1.4 is not
        ({4: (96, 99), 8: (97, 99)}, 4),  # none has a margin
        ({4: (96, 99), 8: (100, 96)}, 4),  # rank 8 lost the skill
        ({4: (98, 99), 8: (100, 99)}, 4),
    ],
)
def test_a_rank_chosen_on_other_prompts_has_a_margin(choosing: dict[int, tuple[int, int]], rank: int) -> None:
    chose = RankEvidence(ALONE, {key: evidence(*scores) for key, scores in choosing.items()})
    judged = {key: evidence(99, 99) for key in choosing}
    assert judge(ALONE, THETA, judged, choosing=chose).rank == rank
    assert judge(ALONE, THETA, chose.grafts).rank == 4  # on the same prompts nothing is gained by a margin


def test_a_failed_prompt_is_a_needle_not_found_for_the_margin() -> None:
    failed = Evidence(Cell(Proportion(n=95, hits=95, failed=5)), of(99))
    chose = RankEvidence(ALONE, {4: failed, 8: evidence(98, 99)})
    assert judge(ALONE, THETA, {4: evidence(99, 99), 8: evidence(99, 99)}, choosing=chose).rank == 8


def test_the_limit_is_exact_where_floating_point_is_not() -> None:
    assert 100 * (1.0 - 0.98) > 2
    assert keeps_skill(evidence(0, 98), evidence(0, 100)) is True


def test_pairs_are_compared_where_there_are_any() -> None:
    pairs = PairCounts(n=100, both=90, lost=3, gained=1, neither=6)
    assert keeps_skill(Evidence(of(0), of(50), pairs), evidence(0, 100)) is True
    assert keeps_skill(Evidence(of(0), of(50), replace(pairs, lost=4)), evidence(0, 100)) is False


def test_the_smallest_rank_that_does_both_is_named() -> None:
    verdict = judge(ALONE, THETA, {4: evidence(92, 99), 8: evidence(97, 99), 16: evidence(100, 99)})
    assert (verdict.outcome, verdict.rank) == (VerdictOutcome.BOTH, 8)
    assert sentence(verdict, WHERE) == (
        "the long context works (97 % [92, 99], n=100) at 1,024 tokens (8× the base), and the skill is kept "
        "(99 % against 99 % of the fine-tune); smallest rank for both: 8. "
        "Without the adapter: alone 0 %, with the new theta only 44 %."
    )


def test_a_rank_that_lost_the_skill_is_passed_over() -> None:
    verdict = judge(ALONE, THETA, {4: evidence(96, 90), 8: evidence(97, 97)})
    assert (verdict.outcome, verdict.rank) == (VerdictOutcome.BOTH, 8)


def test_long_context_without_skill_names_the_rank_with_the_best_skill() -> None:
    verdict = judge(ALONE, THETA, {2: evidence(80, 99), 4: evidence(96, 94), 8: evidence(99, 92)})
    assert (verdict.outcome, verdict.rank) == (VerdictOutcome.CONTEXT_ONLY, 4)
    assert "but the skill is lost: 94 % against 99 %" in sentence(verdict, WHERE)


def test_no_context_names_the_best_graft_and_the_smaller_of_equals() -> None:
    verdict = judge(ALONE, THETA, {4: evidence(61, 99), 8: evidence(84, 96), 16: evidence(84, 99)})
    assert (verdict.outcome, verdict.rank) == (VerdictOutcome.NEITHER, 8)
    said = sentence(verdict, WHERE)
    assert said.startswith(f"the long context fails: at {WHERE} the best graft, rank 8, reaches 84 % ")
    assert "; the skill is lost (96 % against 99 % of the fine-tune)." in said


def test_an_unmeasured_skill_is_not_a_kept_one() -> None:
    verdict = judge(Evidence(of(0), NOTHING), THETA, {4: Evidence(of(98), NOTHING)})
    assert verdict.outcome is VerdictOutcome.SKILL_UNKNOWN
    assert "the skill was not measured" in sentence(verdict, WHERE)


def test_nothing_measured_is_said_so() -> None:
    truncated = Evidence(Cell(Proportion(truncated=100, reason="too long")), of(99))
    verdict = judge(ALONE, THETA, {4: truncated})
    assert verdict.outcome is VerdictOutcome.UNKNOWN
    assert sentence(verdict, WHERE).startswith("not measured")


def test_a_long_context_that_works_without_the_adapter_is_reported() -> None:
    verdict = judge(ALONE, evidence(96, 99), {4: evidence(97, 99)})
    assert verdict.adapter_unneeded
    assert "The new theta alone passes, so the adapter is not needed for the context." in sentence(
        verdict, WHERE
    )
    assert "1 of them would pass without the adapter." in headline([verdict], WHERE)


def test_small_samples_are_called_small() -> None:
    verdict = judge(ALONE, THETA, {4: Evidence(of(12, 12), of(99))})
    assert "n=12, a small sample" in sentence(verdict, WHERE)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([97, 98], "likely for all 2 fine-tunes."),
        ([97, 50], "likely for 1 of 2 fine-tunes, not shown for 1."),
        ([97, 98, 50], "likely for 2 of 3 fine-tunes, not shown for 1."),
        ([3000, 97, 50], "established for 1 of 3 fine-tunes, likely for 1, not shown for 1."),
        ([50, 40], "not shown for all 2 fine-tunes."),
        ([97], "likely for the fine-tune."),
        ([50], "not shown for the fine-tune."),
        ([3000], "established for the fine-tune."),
    ],
)
def test_the_headline_counts_by_interval(outcomes: list[int], said: str) -> None:
    large = Evidence(of(3000, 3000), of(2970, 3000), PairCounts(n=3000, both=2970, neither=30))
    grafts = [large if needle > 100 else evidence(needle, 99) for needle in outcomes]
    verdicts = [judge(ALONE, THETA, {4: graft}) for graft in grafts]
    assert headline(verdicts, WHERE).startswith(f"Long context with the skill kept at {WHERE}: {said}")


def test_without_grafts_nothing_is_judged() -> None:
    assert headline([], WHERE).startswith("No graft is among these samples")


def test_the_headline_names_wide_intervals_and_a_weak_donor() -> None:
    own = Evidence(of(0), of(990, 1000))
    near, clear = (
        judge(
            own, THETA, {4: Evidence(of(hits, 300), of(990, 1000), PairCounts(n=1000, both=990, neither=10))}
        )
        for hits in (288, 300)
    )
    rule = (
        "Established: the whole 95 % interval is within the limits (at least 95 % of the needles found, at "
        "most 2 points of the skill lost); likely: the measured shares are."
    )
    subject = f"Long context with the skill kept at {WHERE}:"
    assert headline([clear], WHERE) == f"{subject} established for the fine-tune. {rule}"
    said = headline([near, clear], WHERE, donor=of(100))
    assert said == f"{subject} established for 1 of 2 fine-tunes, likely for 1. {rule}"
    failed = judge(ALONE, THETA, {4: evidence(60, 99)})
    assert "The donor itself finds 90 % [83, 94], n=100 there." in headline([failed], WHERE, donor=of(90))


def test_a_paired_skill_is_shown_with_its_difference() -> None:
    pairs = PairCounts(n=100, both=90, lost=3, gained=1, neither=6, wins=1, losses=3, ties=96)
    verdict = judge(ALONE, THETA, {4: Evidence(of(97), of(99), pairs)})
    assert "\N{MINUS SIGN}2.0 points [" in sentence(verdict, WHERE)
    assert ", n=100)" in sentence(verdict, WHERE)


def test_failed_samples_count_against_the_graft() -> None:
    needles = Cell(Proportion(n=60, hits=60, failed=40))
    assert judge(ALONE, THETA, {4: Evidence(needles, of(99))}).outcome is VerdictOutcome.NEITHER
    skill = Cell(Proportion(n=150, hits=150, failed=50))
    pairs = PairCounts(n=150, both=150)
    for graft in (Evidence(of(100), skill), Evidence(of(100), skill, pairs)):
        assert judge(ALONE, THETA, {4: graft}).outcome is VerdictOutcome.CONTEXT_ONLY


def test_pairs_decide_only_where_they_cover_all_answers() -> None:
    own = Evidence(of(0), of(198, 200))
    graft = Evidence(of(100), of(150, 200), PairCounts(n=150, both=150))
    assert judge(own, THETA, {4: graft}).outcome is VerdictOutcome.CONTEXT_ONLY
