"""The functions and the class of the tasks beside this file, named by `!function` in their YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from contextgraft.evaluation.requests import arguments
from contextgraft.evaluation.scoring import SCORING

Row = Mapping[str, Any]  # prompt (token ids in decimal, joined by spaces), answer, scoring, budget, stop


class TokenTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval is untyped
    """A task whose questions have budgets and stop texts of their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: Row, ctx: str, **kwargs: Any) -> Instance:
        """The request of one question."""
        names = ("apply_chat_template", "chat_template")  # lm-eval passes them; prompts hold their template
        return Instance(
            request_type=self.OUTPUT_TYPE,
            doc=doc,
            arguments=arguments(ctx, doc["budget"], doc["stop"]),
            idx=0,
            **{name: value for name, value in kwargs.items() if name not in names},
        )


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
    """0 to 1 by the row's scoring."""
    return {"score": SCORING[row["scoring"]](results[0], row["answer"])}
