"""The two ways to score, case by case."""

import pytest

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
    ],
)
def test_scores(scoring: str, output: str, answer: str, score: float) -> None:
    assert SCORING[scoring](output, answer) == score
