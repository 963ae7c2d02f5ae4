"""The ways to score, case by case."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.evaluation.scoring import SCORING


@pytest.mark.parametrize(
    ("scoring", "output", "answer", "score"),
    [
        ("exact", " 03 17 ", "03 17", 1.0),
        ("exact", "03 17 thank", "03 17", 0.0),
        ("exact", "17 03", "03 17", 0.0),
        ("exact", "", "03", 0.0),
        ("exact", "Paris", "paris", 0.0),
        ("contains", "it is PARIS .", "paris", 1.0),
        ("contains", "12345678", "1234567", 1.0),
        ("contains", "a\n b", "a b", 1.0),
        ("contains", "par is", "paris", 0.0),
        ("recall", "7 and 9 and 8", '["9", "7"]', 1.0),
        ("recall", "it is KALO, not 12", '["kalo", "bemi", "12", "13"]', 0.5),
        ("recall", "", '["kalo"]', 0.0),
        ("recall", "a\n b", '["a b"]', 1.0),
        ("recall", "2", '["1", "2", "3"]', 1 / 3),
        ("any", "I think Denver\nBroncos.", '["the broncos", "denver broncos"]', 1.0),
        ("any", "Denver", '["broncos"]', 0.0),
    ],
)
def test_scores(scoring: str, output: str, answer: str, score: float) -> None:
    assert SCORING[scoring](output, answer) == score


@given(st.text(), st.lists(st.text(), min_size=1, max_size=5))
def test_scores_lie_between_none_and_all(output: str, answers: list[str]) -> None:
    text = json.dumps(answers)
    share, found = SCORING["recall"](output, text), SCORING["any"](output, text)
    assert 0 <= share <= 1
    assert found == (share > 0)
    assert share * len(answers) == pytest.approx(sum(SCORING["contains"](output, a) for a in answers))
    assert SCORING["recall"](" and ".join(answers), text) == 1
