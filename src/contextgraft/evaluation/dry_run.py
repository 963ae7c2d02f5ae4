"""What a run would ask, and how much of its prompts would be computed: no weights are loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.evaluation.backends.generation import ability
from contextgraft.evaluation.backends.loading import load_config
from contextgraft.evaluation.backends.prefix_sharing import plan
from contextgraft.evaluation.backends.registry import Engine
from contextgraft.evaluation.backends.transformers import batch_tokens
from contextgraft.evaluation.build_questions import questions_of
from contextgraft.evaluation.models import candidate as who
from contextgraft.evaluation.models import check_labels
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.suites.base import Measure
from contextgraft.evaluation.suites.spec import Exam


@dataclass(frozen=True)
class Ask:
    """What a model is asked of one suite: questions (or windows), prompt tokens and those to compute.

    `prefilled` is None where a server or vLLM decides what it shares.
    """

    model: str
    suite: str
    units: int
    prompt_tokens: int
    prefilled: int | None
    generated: int


def preview(
    models: Sequence[tuple[str | None, Path]], exam: Exam, engine: Engine, measures: Sequence[Measure]
) -> list[Ask]:
    """What each model would be asked, suite by suite; raises what the run would before it asks."""
    candidates = [who(label, path) for label, path in models]
    check_labels(candidates)
    asks = []
    for each in candidates:
        questions = questions_of(exam, each.tokens)
        share = engine.backend == "hf" and ability(load_config(each.path)).crops
        for suite in dict.fromkeys(question.suite for question in questions):
            asked = [question for question in questions if question.suite == suite]
            asks.append(ask_of(each.label, asked, engine, share=share))
        for measure in measures:
            measure.check(each.tokens)
            tokens = measure.count() * measure.longest(each.tokens)
            asks.append(Ask(each.label, measure.suite, measure.count(), tokens, tokens, 0))
    return asks


def ask_of(label: str, questions: Sequence[Question], engine: Engine, *, share: bool) -> Ask:
    """The questions of one suite."""
    limit = batch_tokens(engine.device.split(":", maxsplit=1)[0])
    batches = plan(
        [question.ids for question in questions],
        batch_size=engine.batch_size,
        batch_tokens=limit,
        share=share,
    )
    return Ask(
        model=label,
        suite=questions[0].suite,
        units=len(questions),
        prompt_tokens=sum(len(question.ids) for question in questions),
        prefilled=sum(batch.prefilled for batch in batches) if engine.backend == "hf" else None,
        generated=sum(question.budget for question in questions),
    )


def as_json(asks: Sequence[Ask]) -> list[dict[str, Any]]:
    """Asks as JSON values."""
    return [asdict(ask) for ask in asks]
