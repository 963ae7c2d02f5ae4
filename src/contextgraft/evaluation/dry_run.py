"""What a run would evaluate, and how much of its prompts would be computed: no weights are loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contextgraft.evaluation.backends.generation import cache_capabilities
from contextgraft.evaluation.backends.loading import load_config
from contextgraft.evaluation.backends.prefix_sharing import plan_batches
from contextgraft.evaluation.backends.registry import BackendConfig, check_backend
from contextgraft.evaluation.backends.transformers import batch_tokens
from contextgraft.evaluation.models import ModelPaths, ModelVariant, check_labels, open_eval_model
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.spec import EvalSpec


@dataclass(frozen=True)
class SuitePlan:
    """What one suite of one model takes: questions (or windows), prompt tokens and those to compute.

    `prefilled` is None where a server or vLLM decides what it reuses.
    """

    model: str
    suite: str
    units: int
    prompt_tokens: int
    prefilled: int | None
    generated: int


def dry_run(
    models: ModelPaths, spec: EvalSpec, backend: BackendConfig, variants: Sequence[ModelVariant] = ()
) -> list[SuitePlan]:
    """The plan of each model, suite by suite; raises what the run would raise before it loads weights.

    A variant of the first model that does not fit it raises its error, too.
    """
    if variants:
        check_backend(backend, len(models) + len(variants), len(variants))
    target, *others = [open_eval_model(label, path) for label, path in models]
    opened = [target, *(variant.open(target, identify=False) for variant in variants), *others]
    check_labels(opened)
    plans = []
    for model in opened:
        questions = spec.questions(model.tokenizer)
        share = backend.backend == "hf" and cache_capabilities(load_config(model.path)).crops
        for suite in dict.fromkeys(question.suite for question in questions):
            of_suite = [question for question in questions if question.suite == suite]
            plans.append(plan_questions(model.label, of_suite, backend, share=share))
        for measurement in spec.measurements:
            measurement.check(model.tokenizer)
            tokens = len(measurement) * measurement.longest(model.tokenizer)
            answers = measurement.answer_tokens()
            prompts = tokens - answers
            plans.append(
                SuitePlan(model.label, measurement.suite, len(measurement), prompts, prompts, answers)
            )
    return plans


def plan_questions(
    label: str, questions: Sequence[Question], backend: BackendConfig, *, share: bool
) -> SuitePlan:
    """The plan of the questions of one suite."""
    batches = plan_batches(
        [question.ids for question in questions],
        batch_size=backend.batch_size,
        batch_tokens=batch_tokens(backend.device.split(":", maxsplit=1)[0]),
        share=share,
    )
    return SuitePlan(
        model=label,
        suite=questions[0].suite,
        units=len(questions),
        prompt_tokens=sum(len(question.ids) for question in questions),
        prefilled=sum(batch.prefilled for batch in batches) if backend.backend == "hf" else None,
        generated=sum(question.budget for question in questions),
    )


def as_json(plans: Sequence[SuitePlan]) -> list[dict[str, Any]]:
    """What `evaluate --dry-run --json` prints."""
    return [asdict(plan) for plan in plans]
