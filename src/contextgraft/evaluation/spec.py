"""What one run evaluates: question sets and measurements, the same for every model."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from contextgraft.checkpoint.digest import json_digest
from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.suites import SUITES
from contextgraft.evaluation.suites.base import Measurement, QuestionSet, SampleRow


@dataclass(frozen=True)
class EvalSpec:
    """Everything that every model of a run is evaluated on; `seed` draws the questions."""

    question_sets: tuple[QuestionSet, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    seed: int = 0

    def questions(self, tokenizer: PromptTokenizer) -> list[Question]:
        """The questions of all sets, in their order; InputError if the tokenizer cannot hold them."""
        return [
            question
            for question_set in self.question_sets
            for question in question_set.questions(tokenizer, self.seed)
        ]

    def questions_digest(self) -> str:
        """sha256 of all that decides the questions; names of files do not.

        Tables and caches that were written before carry this digest: its keys must stay as they are.
        """
        contents: dict[str, list[Any]] = defaultdict(list)
        for question_set in self.question_sets:
            contents[question_set.suite].append(question_set.content())
        needle, ruler, skills = (contents.pop(suite, []) for suite in ("needle", "ruler", "skill"))
        return json_digest(
            {
                **contents,
                "needle": needle,
                "ruler": ruler[0] if ruler else None,
                "skills": skills,
                "seed": self.seed,
            }
        )


def build_spec(config: EvaluationConfig) -> EvalSpec:
    """Everything that a configuration selects; raises InputError or ConfigError for what cannot be read."""
    selected = config.selected_suites
    if not selected:
        raise InputError("no --suite given", remedy="pass --suite needle --lengths 1024,4096, for example")
    contents, collector = [], MistakeCollector()
    for name in selected:
        with collector.check():
            contents.append(SUITES[name].build(config))
    collector.raise_mistakes()
    return EvalSpec(
        question_sets=tuple(part for content in contents for part in content.question_sets),
        measurements=tuple(part for content in contents for part in content.measurements),
        seed=config.common_seed,
    )


def narrowed_config(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """The configuration that contains what a row of the table was evaluated on.

    Formats, files and texts are those of `config`; suite, seed, lengths and kinds are those of the row.
    """
    suite = row["suite"]
    if suite not in SUITES:
        raise InputError("the row's suite is unknown", expected=f"one of {', '.join(SUITES)}", received=suite)
    narrowed = SUITES[suite].narrow(config, row)
    return narrowed.model_copy(update={"suites": [suite], "seed": row["seed"]})
