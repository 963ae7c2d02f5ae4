"""The pure functions of the tasks beside this file, named by `!function` in their YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from contextgraft.evaluation.scoring import SCORING

Row = Mapping[str, Any]  # prompt (token ids in decimal, joined by spaces), answer, scoring


def dataset(rows: Sequence[Row], **_: Any) -> dict[str, Dataset]:
    """The rows of the task's metadata as the data set lm-eval wants."""
    return {"test": Dataset.from_list([dict(row) for row in rows])}


def prompt(row: Row) -> str:
    """The request: token ids in decimal, which TokenLM reads back exactly."""
    text: str = row["prompt"]
    return text


def answer(row: Row) -> str:
    """The expected continuation."""
    text: str = row["answer"]
    return text


def score(row: Row, results: Sequence[str]) -> dict[str, float]:
    """1 or 0 by the row's scoring."""
    return {"score": SCORING[row["scoring"]](results[0], row["answer"])}
