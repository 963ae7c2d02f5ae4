"""RULER's effective length of every model: pure."""

from dataclasses import dataclass

from contextgraft.report.data.labels import families
from contextgraft.report.statistics.cells import RULER, ModelKey, ScoreGroup, cell
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.stats import EffectiveLength, effective_length


@dataclass(frozen=True)
class ModelEffectiveLength:
    """RULER's effective length of one model, and by length its mean score and how many tasks that is over."""

    label: str
    length: EffectiveLength
    means: tuple[tuple[int, float, int], ...]


def effective_lengths(study: StudyTable) -> list[tuple[str, list[ModelEffectiveLength]]]:
    """By family, for every model with a scored RULER task."""
    by_family = []
    for family in families(study):
        scored = [(label, _by_length(study, model)) for label, model in family.models]
        models = [
            ModelEffectiveLength(
                label,
                effective_length(scores),
                tuple((length, sum(s.values()) / len(s), len(s)) for length, s in sorted(scores.items())),
            )
            for label, scores in scored
            if scores
        ]
        if models:
            by_family.append((family.name, models))
    return by_family


def _by_length(study: StudyTable, model: ModelKey) -> dict[int, dict[str, float]]:
    """Mean scores in percent by length and task."""
    own: dict[tuple[int, str], list[ScoreGroup]] = {}
    for group in study.groups_by_model.get(model, ()):
        if group.suite == RULER:
            own.setdefault((group.length or 0, group.task), []).append(group)
    scores: dict[int, dict[str, float]] = {}
    for (length, task), groups in sorted(own.items()):
        share = cell(groups).proportion.score
        if share is not None:
            scores.setdefault(length, {})[task] = 100 * share
    return scores
