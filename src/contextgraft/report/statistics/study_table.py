"""The main table of a study: rows, columns and verdicts, from score groups and names: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from contextgraft.config.control_names import BY_CONFIG_ALONE
from contextgraft.formats.samples import ROLE_OF_CONTROL, THETA_ONLY
from contextgraft.report.statistics.cells import (
    Cell,
    ModelKey,
    NeedleCondition,
    ScoreGroup,
    belongs_to_fine_tune,
    by_model,
    cell,
    conditions,
    needles,
    singles,
    skills,
)
from contextgraft.report.statistics.clusters import TextKey, TextShares
from contextgraft.report.statistics.paired import UNPAIRED, PairCounts
from contextgraft.report.statistics.proportion import Difference, difference
from contextgraft.report.statistics.splits import UNSPLIT, PromptPairs, SplitScores, rank_evidence
from contextgraft.report.statistics.verdict import (
    ControlComparison,
    Evidence,
    RankEvidence,
    Verdict,
    judge,
)


@dataclass(frozen=True)
class ModelRow:
    """A row of the table: needles at the base's context and at the longest length, and skill.

    `skill_difference` is the skill against that of the fine-tune alone.
    """

    model: ModelKey
    label: str
    condition: NeedleCondition | None
    short: Cell
    long: Cell
    skill: Cell
    skill_difference: Difference | None = None
    pairs: PairCounts = UNPAIRED

    @property
    def evidence(self) -> Evidence:
        """The scores that a verdict is based on."""
        return Evidence(self.long, self.skill, self.pairs)


@dataclass(frozen=True)
class TargetResult:
    """A fine-tune under one needle condition: its verdict, and rows: alone, theta only, controls, grafts.

    The condition is None where no needles were evaluated. `choosing` are the scores that chose the rank,
    `judged` those that the verdict is about; `comparisons` are those of the grafts with controls, by rank.
    """

    name: str
    digest: str
    condition: NeedleCondition | None
    rows: tuple[ModelRow, ...]
    verdict: Verdict
    choosing: RankEvidence
    judged: RankEvidence
    comparisons: Mapping[int, tuple[ControlComparison, ...]] = field(default_factory=dict)

    @property
    def alone(self) -> ModelRow:
        """The row of the fine-tune itself, without an adapter."""
        return self.rows[0]

    @property
    def theta(self) -> ModelRow:
        """The row of the fine-tune with the new theta and its own weights."""
        return self.rows[1]

    @property
    def grafts(self) -> tuple[ModelRow, ...]:
        """The grafts at scale 1, by rank."""
        return tuple(row for row in self.rows if is_graft(row.model))

    @property
    def controls(self) -> tuple[ModelRow, ...]:
        """The rows of the controls other than theta only."""
        return tuple(row for row in self.rows if row.model.control)

    @property
    def best(self) -> ModelRow | None:
        """The graft of the rank that the verdict names."""
        return next((row for row in self.grafts if row.model.rank == self.verdict.rank), None)


@dataclass(frozen=True)
class StudyTable:
    """Everything that the report shows of needles, RULER and skills.

    `context` is the base's, if it is known; `short` and `longest` are the lengths of the two needle columns.
    `texts` are the needles by text where they share some; `needle_pairs` are paired with the fine-tune.
    """

    context: int | None
    short: int
    longest: int
    references: tuple[ModelRow, ...]
    targets: tuple[TargetResult, ...]
    others: tuple[ModelRow, ...]
    groups: tuple[ScoreGroup, ...]
    texts: Mapping[TextKey, TextShares] = field(default_factory=dict)
    needle_pairs: Mapping[TextKey, PairCounts] = field(default_factory=dict)

    @cached_property
    def groups_by_model(self) -> dict[ModelKey, list[ScoreGroup]]:
        """The groups of each model that has some."""
        return by_model(self.groups)

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """All rows of the table, in its order."""
        return (*self.references, *(row for target in self.targets for row in target.rows), *self.others)

    def by_length_and_depth(self, row: ModelRow) -> dict[tuple[int, float], Cell]:
        """The needle cells of a row that have samples, by length and depth."""
        groups = self.groups_by_model.get(row.model, ())
        own = needles(groups, row.model, row.condition) if row.condition else []
        squares: dict[tuple[int, float], list[ScoreGroup]] = {}
        for group in own:
            if group.depth is not None:
                squares.setdefault((group.length or 0, group.depth), []).append(group)
        return {key: cell(squares[key]) for key in sorted(squares)}

    def by_depth(self, row: ModelRow) -> dict[float, Cell]:
        """The scored needle cells of a row at the longest length, by depth."""
        cells = self.by_length_and_depth(row).items()
        return {
            depth: cell for (length, depth), cell in cells if length == self.longest and cell.proportion.n
        }

    def by_text(self, row: ModelRow, length: int) -> TextShares | None:
        """The needles of a row at one length by text; None where no text has several questions."""
        return self.texts.get((row.model, row.condition, length)) if row.condition else None

    @property
    def donor(self) -> ModelRow | None:
        """The donor's row; the first, if there are several."""
        return self._reference("donor")

    @property
    def base(self) -> ModelRow | None:
        """The base's row; the first, if it was evaluated under several needle conditions."""
        return self._reference("base")

    def _reference(self, role: str) -> ModelRow | None:
        return next((row for row in self.references if row.model.role == role), None)


def build_study_table(
    groups: Sequence[ScoreGroup],
    names: Mapping[ModelKey, str],
    context: int | None = None,
    pairs: Mapping[ModelKey, PairCounts] = MappingProxyType({}),
    prompts: PromptPairs | None = None,
) -> StudyTable:
    """Arrange the score groups; `names` has the name of every model, `context` is the base's if it is known.

    The first needle column is at the base's context, or at the shortest length if that has no samples.
    `pairs` are skills paired with the fine-tune, `prompts` the same by split, and pairs with controls.
    """
    lengths = sorted({group.length for group in singles(groups) if group.length is not None})
    short = context if context in lengths else (lengths[0] if lengths else 0)
    longest = lengths[-1] if lengths else 0
    own_names: dict[str, list[ModelKey]] = {}
    for model in names:
        own_names.setdefault(model.name, []).append(model)
    prompts = prompts or PromptPairs()
    builder = _RowBuilder(by_model(groups), names, own_names, pairs, prompts, short, longest)
    models = sorted(names, key=lambda model: (names[model], model))
    by_role = {
        role: [model for model in models if model.role == role]
        for role in ("base", "donor", "alone", "other")
    }
    fine_tunes = sorted(
        {model.name: names[model] for model in models if belongs_to_fine_tune(model.role)}.items()
    )
    fine_tunes.sort(key=lambda item: item[1])
    return StudyTable(
        context=context,
        short=short,
        longest=longest,
        references=tuple(
            row for role in ("base", "donor") for model in by_role[role] for row in builder.rows(model)
        ),
        targets=tuple(target for digest, name in fine_tunes for target in builder.targets(digest, name)),
        others=tuple(row for model in by_role["other"] for row in builder.rows(model)),
        groups=tuple(groups),
    )


@dataclass(frozen=True)
class _RowBuilder:
    """Makes rows from score groups."""

    groups: Mapping[ModelKey, Sequence[ScoreGroup]]
    names: Mapping[ModelKey, str]
    models: Mapping[str, Sequence[ModelKey]]  # by their name, a digest
    pairs: Mapping[ModelKey, PairCounts]
    prompts: PromptPairs
    short: int
    longest: int

    def rows(self, model: ModelKey) -> list[ModelRow]:
        """A row for each needle condition of the model; one without needles if it has none."""
        own: Sequence[NeedleCondition | None] = self._conditions([model]) or (None,)
        return [self.row(model, self.names[model], condition) for condition in own]

    def row(
        self, model: ModelKey, label: str, condition: NeedleCondition | None, own: Cell | None = None
    ) -> ModelRow:
        """One row; `own` is the skill of the fine-tune it is compared with."""
        skill = cell(skills(self.groups.get(model, ()), model))
        pairs = self.pairs.get(model, UNPAIRED)
        return ModelRow(
            model=model,
            label=label,
            condition=condition,
            short=self._needle(model, condition, self.short),
            long=self._needle(model, condition, self.longest),
            skill=skill,
            skill_difference=(pairs.difference or difference(skill.proportion, own.proportion))
            if own
            else None,
            pairs=pairs,
        )

    def targets(self, digest: str, name: str) -> list[TargetResult]:
        """The rows of one fine-tune, once for each needle condition of any of them; once without needles."""
        own = sorted(self.models[digest])
        controls = [model for model in own if model.control]
        grafts = [model for model in own if model.role == "graft"]
        family = [ModelKey("alone", digest), ModelKey("theta", digest, 0, 0.0), *controls, *grafts]
        wanted: Sequence[NeedleCondition | None] = self._conditions(family) or (None,)
        return [self._target(digest, name, condition, family) for condition in wanted]

    def _target(
        self, digest: str, name: str, condition: NeedleCondition | None, family: Sequence[ModelKey]
    ) -> TargetResult:
        alone = self.row(family[0], "alone", condition)
        others = [self.row(model, graft_label(model), condition, alone.skill) for model in family[1:]]
        models = [row.model for row in (alone, *others)]
        grafts = [model for model in models if is_graft(model)]
        groups = [group for model in family for group in self.groups.get(model, ())]
        scores = SplitScores(groups, self.prompts.of(family), condition, self.longest)
        splits = scores.splits([alone.model, *grafts])
        if splits == UNSPLIT:
            first = second = {row.model: row.evidence for row in (alone, *others)}
        else:
            first, second = (scores.evidence(models, split) for split in splits)
        choosing, judged = (rank_evidence(scored, alone.model, grafts) for scored in (first, second))
        controls = {row.label: second[row.model] for row in others if row.model.control}
        free = [row.label for row in others if row.model.control in BY_CONFIG_ALONE]
        verdict = judge(
            judged.alone, second[others[0].model], judged.grafts, controls, free,
            choosing=None if splits == UNSPLIT else choosing,
        )  # fmt: skip
        compared = {row.model: row.label for row in others if not is_graft(row.model)}
        comparisons = {model.rank: scores.comparisons(model, compared, splits[1]) for model in grafts}
        if verdict.rank is not None:
            verdict = replace(verdict, comparisons=comparisons[verdict.rank])
        return TargetResult(name, digest, condition, (alone, *others), verdict, choosing, judged, comparisons)

    def _needle(self, model: ModelKey, condition: NeedleCondition | None, length: int) -> Cell:
        if condition is None:
            return cell(())
        return cell(needles(self.groups.get(model, ()), model, condition, length))

    def _conditions(self, models: Sequence[ModelKey]) -> tuple[NeedleCondition, ...]:
        return conditions([group for model in models for group in self.groups.get(model, ())], models)


def is_graft(model: ModelKey) -> bool:
    """Whether it is a graft at scale 1, about which a verdict can be."""
    return model.role == "graft" and model.scale == 1


def graft_label(model: ModelKey) -> str:
    """`theta only`, `graft r8`, or with its scale if that is not 1; of a control, its title."""
    if model.role == "theta":
        return THETA_ONLY
    if model.control:
        title = ROLE_OF_CONTROL.get(model.control, model.control)
        return f"{title} r{model.rank}" if model.rank else title
    scale = "" if model.scale == 1 else f" × {model.scale:g}"
    return f"graft r{model.rank}{scale}"
