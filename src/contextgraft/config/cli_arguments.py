"""What a study asks, in the words of `contextgraft evaluate`."""

from collections.abc import Iterable

from contextgraft.config.evaluation import (
    DivergenceSection,
    PerplexitySection,
    RulerSection,
    StudyNeedleSection,
)
from contextgraft.config.study import StudyConfig
from contextgraft.config.target_sheet import TargetRow


def numbers(values: Iterable[float]) -> str:
    """`128,1024`."""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def repeated(option: str, values: Iterable[object]) -> list[str]:
    """An option once for each value."""
    return [word for value in values for word in (option, str(value))]


def needles(asked: StudyNeedleSection) -> list[str]:
    """The needle grid, one for each kind and haystack."""
    return [
        *("--suite", "needle"),
        *("--lengths", numbers(asked.lengths), "--depths", numbers(asked.depths)),
        *("--samples", str(asked.samples), "--distractors", str(asked.distractors)),
        *repeated("--kind", asked.kinds),
        *([] if asked.count is None else ["--count", str(asked.count)]),
        *repeated("--haystack", asked.haystacks),
        *("--seed", str(asked.seed)),
    ]


def ruler(asked: RulerSection | None) -> list[str]:
    """RULER's tasks, if they are asked."""
    if asked is None:
        return []
    data = {"--qa-1": asked.qa_1, "--qa-2": asked.qa_2}
    return [
        *("--suite", "ruler", "--ruler-lengths", numbers(asked.lengths or [])),
        *([] if asked.samples is None else ["--ruler-samples", str(asked.samples)]),
        *repeated("--ruler-task", asked.tasks or []),
        *(word for option, file in data.items() if file is not None for word in (option, file)),
    ]


def perplexity(asked: PerplexitySection | None) -> list[str]:
    """Perplexity by position, if it is measured."""
    if asked is None:
        return []
    return [
        *("--suite", "perplexity", "--perplexity-lengths", numbers(asked.lengths or [])),
        *("--documents", str(asked.documents)),
    ]


def divergence(asked: DivergenceSection | None, reference: str) -> list[str]:
    """Divergence from the model labelled `reference`, if it is measured."""
    if asked is None:
        return []
    return [
        *("--suite", "divergence", "--reference", reference),
        *("--divergence-length", str(asked.length), "--divergence-prompts", str(asked.prompts)),
    ]


def skills(target: TargetRow, samples: int | None) -> list[str]:
    """A fine-tune's own skills, if the sheet names any."""
    if not target.skills:
        return []
    return [
        "--suite",
        "skill",
        *repeated("--skill", target.skills),
        *repeated("--skill-samples", [samples] if samples else []),
    ]


def of_all(study: StudyConfig) -> list[str]:
    """What every model of a study is asked, base and donors among them, and on what."""
    asked = study.evaluation
    on_gpu = ["--device", "cuda", "--dtype", "auto"] if study.cluster.device == "cuda" else []
    return [
        *needles(asked.needle),
        *ruler(asked.ruler),
        *perplexity(asked.perplexity),
        *("--batch-size", str(asked.batch_size)),
        *on_gpu,
    ]


def of_target(study: StudyConfig, target: TargetRow) -> list[str]:
    """What a fine-tune and its grafts are asked; the fine-tune is labelled by its name."""
    return [
        *of_all(study),
        *divergence(study.evaluation.divergence, target.name),
        *skills(target, study.evaluation.skill.samples),
    ]


def extraction(study: StudyConfig) -> list[str]:
    """What the adapters carry, who factorises, and which donor is expected, in the words of `extract`."""
    asked, donor = study.extraction, study.donor
    given = {
        "--embeddings": asked.embeddings,
        "--include": asked.include,
        "--exclude": asked.exclude,
        "--backend": None if asked.backend == "contextgraft" else asked.backend,
        "--expect-theta": None if donor.theta is None else f"{donor.theta:.17g}",
        "--expect-positions": donor.max_positions,
    }
    return [word for option, value in given.items() if value for word in (option, str(value))]
