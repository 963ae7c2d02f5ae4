"""Scores on the prompts that choose a rank and on those that judge it; comparisons by prompt: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from contextgraft.formats.samples import CHOOSE, REPORT
from contextgraft.report.statistics.cells import (
    NEEDLE,
    ModelKey,
    NeedleCondition,
    ScoreGroup,
    cell,
    first_metrics,
    needles,
    skills,
)
from contextgraft.report.statistics.grouping import group_by
from contextgraft.report.statistics.paired import (
    UNPAIRED,
    ControlPairs,
    PairCounts,
    SkillPairs,
    pairs_by_model,
    pool_pairs,
)
from contextgraft.report.statistics.verdict import ControlComparison, Evidence, RankEvidence

Split = str | None  # None: all prompts
UNSPLIT: tuple[Split, Split] = (None, None)


@dataclass(frozen=True)
class PromptPairs:
    """Prompts that two models answered: skills with the fine-tune's own, and grafts with control rows."""

    skills: Sequence[SkillPairs] = ()
    controls: Sequence[ControlPairs] = ()

    def of(self, models: Sequence[ModelKey]) -> "PromptPairs":
        """The pairs of these models; to search all pairs for every fine-tune takes too long."""
        return PromptPairs(
            [pair for model in models for pair in self._skills.get(model, ())],
            [pair for model in models for pair in self._controls.get(model, ())],
        )

    @cached_property
    def _skills(self) -> dict[ModelKey, list[SkillPairs]]:
        return group_by(self.skills, lambda item: item.model)

    @cached_property
    def _controls(self) -> dict[ModelKey, list[ControlPairs]]:
        return group_by(self.controls, lambda item: item.graft)


@dataclass(frozen=True)
class SplitScores:
    """The scores of one needle condition, at the longest length, by split."""

    groups: Sequence[ScoreGroup]
    pairs: PromptPairs
    condition: NeedleCondition | None
    length: int

    def splits(self, models: Sequence[ModelKey]) -> tuple[Split, Split]:
        """The split that chooses and the one that judges; all prompts twice where a model lacks either."""
        for model in models:
            for own in (self._needles(model), skills(self.groups, model)):
                scored = {group.split for group in own if group.proportion.n}
                if scored and scored != {CHOOSE, REPORT}:
                    return UNSPLIT
        return CHOOSE, REPORT

    def evidence(self, models: Sequence[ModelKey], split: Split) -> dict[ModelKey, Evidence]:
        """The scores of each model."""
        paired = pairs_by_model(self.pairs.skills, split)

        def chosen(groups: Sequence[ScoreGroup]) -> list[ScoreGroup]:
            return [group for group in groups if split in (None, group.split)]

        return {
            model: Evidence(
                cell(chosen(self._needles(model))),
                cell(chosen(skills(self.groups, model))),
                paired.get(model, UNPAIRED),
            )
            for model in models
        }

    def comparisons(
        self, graft: ModelKey, others: Mapping[ModelKey, str], split: Split
    ) -> tuple[ControlComparison, ...]:
        """A graft with each control, by its label, on the prompts that both answered."""
        own = [item for item in self.pairs.controls if item.graft == graft and split in (None, item.split)]
        return tuple(
            ControlComparison(label, self._paired_needles(shared), _paired_skills(shared))
            for model, label in others.items()
            if (shared := [item for item in own if item.control == model])
        )

    def _needles(self, model: ModelKey) -> list[ScoreGroup]:
        if self.condition is None:
            return []
        return needles(self.groups, model, self.condition, self.length)

    def _paired_needles(self, shared: Sequence[ControlPairs]) -> PairCounts:
        wanted = (self.condition, self.length)
        return pool_pairs(item.pairs for item in shared if (item.condition, item.length) == wanted)


def rank_evidence(
    evidence: Mapping[ModelKey, Evidence], alone: ModelKey, grafts: Sequence[ModelKey]
) -> RankEvidence:
    """The scores of a fine-tune alone and of its grafts, by rank."""
    return RankEvidence(evidence[alone], {model.rank: evidence[model] for model in grafts})


def _paired_skills(shared: Sequence[ControlPairs]) -> PairCounts:
    own = [item for item in shared if item.suite != NEEDLE]
    metrics = first_metrics((item.task, item.scoring) for item in own)
    return pool_pairs(item.pairs for item in own if item.scoring == metrics[item.task])
