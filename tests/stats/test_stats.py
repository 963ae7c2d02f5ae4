"""Intervals against published values and their own symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.stats import (
    CHAT_THRESHOLD,
    EffectiveLength,
    effective_length,
    mcnemar,
    mean_of_shares,
    newcombe_paired,
    t_interval,
    t_quantile,
    wilson,
)

NEWCOMBE_TABLE_I = [  # Statistics in Medicine 17 (1998), method 3
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), NEWCOMBE_TABLE_I)
def test_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_no_samples_give_the_whole_range() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_refuses_nonsense(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson(successes, n, confidence)


@given(st.integers(1, 5000), st.data())
def test_holds_the_share_mirrors_and_narrows(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    inner = wilson(successes, n, 0.8)
    assert low <= inner[0] <= inner[1] <= high
    tenfold = wilson(10 * successes, 10 * n)
    assert tenfold[1] - tenfold[0] < high - low


def test_a_paired_difference_as_published() -> None:
    # Statistics in Medicine 17 (1998) 2635-2650, Table II, the pairs 36, 12, 2, 0 by method 10
    assert newcombe_paired(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_no_pairs_tell_nothing_and_equal_answers_still_leave_room() -> None:
    assert newcombe_paired(0, 0, 0, 0) == (-1.0, 1.0)
    low, high = newcombe_paired(199, 0, 0, 1)
    assert low < 0 < high
    assert high == pytest.approx(-low)


@given(st.tuples(*[st.integers(0, 300)] * 4).filter(any))
def test_a_paired_difference_mirrors_and_holds_what_was_measured(cells: tuple[int, int, int, int]) -> None:
    both, first, second, neither = cells
    low, high = newcombe_paired(both, first, second, neither)
    assert -1 - 1e-9 <= low <= (first - second) / sum(cells) <= high <= 1 + 1e-9
    assert newcombe_paired(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (12, 2, 212 / 2**14), (2, 12, 212 / 2**14)],
)
def test_mcnemar_counts_coins(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_t_as_in_every_table(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize(("freedom", "confidence"), [(0, 0.95), (3, 1.0), (3, 0.0)])
def test_t_refuses_nonsense(freedom: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        t_quantile(freedom, confidence)


def test_one_value_has_no_interval() -> None:
    assert t_interval(3.0, 0.0, 1) is None
    # Student's own data: ten extra hours of sleep, mean 1.58, deviation 1.2300
    assert t_interval(1.58, 1.23, 10) == pytest.approx((0.7001, 2.4599), abs=1e-3)


def ruler_scores(**means: float) -> dict[int, dict[str, float]]:
    """The same score for every task, by length written as n1024=90.0."""
    return {int(name[1:]): dict.fromkeys(RULER_TASKS, mean) for name, mean in means.items()}


@pytest.mark.parametrize(
    ("scores", "length"),
    [
        (ruler_scores(n4096=96.0, n8192=85.7, n16384=85.5), 8192),
        (ruler_scores(n4096=85.7), 4096),
        (ruler_scores(n4096=85.6), 0),  # RULER: a score that exceeds the threshold
        (ruler_scores(n4096=50.0), 0),
    ],
)
def test_effective_length_is_the_longest_above_the_threshold(
    scores: dict[int, dict[str, float]], length: int
) -> None:
    assert effective_length(scores, CHAT_THRESHOLD).length == length


def test_without_a_template_the_threshold_is_that_of_base_models() -> None:
    assert effective_length(ruler_scores(n4096=96.0, n8192=79.5, n16384=79.4)).length == 8192


def test_rulers_averages_weigh_long_or_short_lengths_more() -> None:
    result = effective_length(ruler_scores(n8192=80.0, n4096=100.0, n16384=40.0))
    assert result.rising == pytest.approx((100 + 2 * 80 + 3 * 40) / 6)
    assert result.falling == pytest.approx((3 * 100 + 2 * 80 + 40) / 6)


def test_the_mean_of_shares_has_the_interval_of_one_share_and_narrows_with_more() -> None:
    assert mean_of_shares([(81, 263)]) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    mean, low, high = mean_of_shares([(9, 10)] * 4)
    one = wilson(9, 10)
    assert mean == 0.9
    assert (0.9 - low, high - 0.9) == pytest.approx(((0.9 - one[0]) / 2, (one[1] - 0.9) / 2))


def test_effective_length_averages_tasks() -> None:
    scores = ruler_scores(n4096=100.0)
    one = {4096: {**scores[4096], "cwe": 0.0}}
    assert effective_length(one, CHAT_THRESHOLD).length == 4096
    two = {4096: {**scores[4096], "cwe": 0.0, "fwe": 0.0}}
    assert effective_length(two, CHAT_THRESHOLD).length == 0


def test_effective_length_is_none_for_fewer_tasks() -> None:
    scores = ruler_scores(n4096=100.0, n8192=100.0)
    del scores[8192]["qa_2"]
    assert effective_length(scores) == EffectiveLength(None, ("qa_2",))
    assert effective_length({}) == EffectiveLength(None, RULER_TASKS)
