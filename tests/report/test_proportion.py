"""Counts, shares and differences against figures counted by hand or published."""

import pytest

from contextgraft.report.statistics.proportion import Proportion, difference, pool


def test_pool_adds_counts_and_widens_the_range_of_lengths() -> None:
    both = pool(
        [
            Proportion(n=20, hits=19, shortest=120, longest=124),
            Proportion(n=20, hits=17, truncated=2, reason="too long"),
        ]
    )
    assert both == Proportion(n=40, hits=36, truncated=2, reason="too long", shortest=120, longest=124)
    assert both.score == pytest.approx(0.9)
    assert both.total == 42


def test_nothing_pooled_is_not_evaluated() -> None:
    nothing = pool([])
    assert nothing.score is None
    assert nothing.unscored_reason == "not evaluated"


def test_the_interval_is_wilsons() -> None:
    # E. B. Wilson's interval of 81 of 263, as in Newcombe's Table I
    assert Proportion(n=263, hits=81).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_unscored_samples_are_counted_by_status_with_the_reason() -> None:
    assert (
        Proportion(truncated=3, failed=1, reason="prompt over the limit").unscored_reason
        == "3 truncated, 1 failed: prompt over the limit"
    )


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    [((56, 70), (48, 80), 5.24, 33.39), ((9, 10), (3, 10), 17.05, 80.90), ((10, 10), (0, 20), 67.91, 100.0)],
)
def test_differences_are_newcombes(
    after: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    # Statistics in Medicine 17 (1998) 873-890, Table II, method 10
    step = difference(Proportion(hits=after[0], n=after[1]), Proportion(hits=before[0], n=before[1]))
    assert step is not None
    assert (step.low, step.high) == pytest.approx((low, high), abs=0.006)
    assert step.points == pytest.approx(100 * (after[0] / after[1] - before[0] / before[1]))


def test_no_difference_without_both_scores() -> None:
    assert difference(Proportion(n=10, hits=9), Proportion(skipped=10)) is None
