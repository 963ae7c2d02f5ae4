"""RULER's effective length of every model: pure."""

from dataclasses import dataclass

from contextgraft.report.data.labels import families
from contextgraft.report.statistics.cells import RULER, ModelKey, ScoreGroup, cell
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.stats import (
    BASE_THRESHOLD,
    CHAT_THRESHOLD,
    EffectiveLength,
    effective_length,
    mean_of_shares,
)


@dataclass(frozen=True)
class RulerMean:
    """The mean over tasks at one length, in percent, with its 95 % interval; over how many tasks."""

    length: int
    mean: float
    low: float
    high: float
    tasks: int


@dataclass(frozen=True)
class ModelEffectiveLength:
    """RULER's effective length of one model, its threshold, and its mean score by length."""

    label: str
    length: EffectiveLength
    threshold: float
    means: tuple[RulerMean, ...]


def effective_lengths(study: StudyTable) -> list[tuple[str, list[ModelEffectiveLength]]]:
    """By family, for every model with a scored RULER task."""
    by_family = []
    for family in families(study):
        models = [result for label, model in family.models if (result := _of_model(study, label, model))]
        if models:
            by_family.append((family.name, models))
    return by_family


def _of_model(study: StudyTable, label: str, model: ModelKey) -> ModelEffectiveLength | None:
    own = [group for group in study.groups_by_model.get(model, ()) if group.suite == RULER]
    if not any(group.proportion.n for group in own):
        return None
    counts = _by_length(own)
    scores = {
        length: {task: 100 * hits / n for task, (hits, n) in tasks.items()}
        for length, tasks in counts.items()
    }
    threshold = CHAT_THRESHOLD if all(group.chat for group in own) else BASE_THRESHOLD
    means = []
    for length, tasks in sorted(counts.items()):
        mean, low, high = (100 * value for value in mean_of_shares(list(tasks.values())))
        means.append(RulerMean(length, mean, low, high, len(tasks)))
    return ModelEffectiveLength(label, effective_length(scores, threshold), threshold, tuple(means))


def _by_length(own: list[ScoreGroup]) -> dict[int, dict[str, tuple[float, float]]]:
    """Sum of scores and n by length and task; a failed prompt counts as wrong, as in RULER.

    So does a task whose prompts all failed: its share is 0.
    """
    by_task: dict[tuple[int, str], list[ScoreGroup]] = {}
    for group in own:
        by_task.setdefault((group.length or 0, group.task), []).append(group)
    counts: dict[int, dict[str, tuple[float, float]]] = {}
    for (length, task), groups in sorted(by_task.items()):
        share = cell(groups).proportion
        if share.n + share.failed:
            counts.setdefault(length, {})[task] = min(share.hits, share.n), share.n + share.failed
    return counts
