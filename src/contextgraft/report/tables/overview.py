"""The overview of the page: one row for each fine-tune, with the rank to use and how sure that is: pure."""

import shlex
from dataclasses import dataclass

from contextgraft.formats.hub_source import hub_repository, is_local
from contextgraft.report.data.labels import target_titles
from contextgraft.report.statistics.advice import Advice, RankAdvice, advice_by_digest
from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.proportion import Difference
from contextgraft.report.statistics.study_table import StudyTable, TargetResult
from contextgraft.report.statistics.verdict import Strength, skill_difference, strength
from contextgraft.report.statistics.weights import WeightRecords


@dataclass(frozen=True)
class StrengthWords:
    """How a strength is shown: its badge, its words, and its place when the table is sorted."""

    state: str
    text: str
    order: int


WORDS = {
    Strength.ESTABLISHED: StrengthWords("yes", "established", 3),
    Strength.LIKELY: StrengthWords("likely", "likely", 2),
    Strength.NOT_SHOWN: StrengthWords("no", "not shown", 1),
    Strength.NOT_MEASURED: StrengthWords("unknown", "not measured", 0),
}


@dataclass(frozen=True)
class OverviewRow:
    """One fine-tune: `rank` is the one to use, else that of the verdict; `command` makes its graft."""

    title: str
    strength: StrengthWords
    advice: Advice
    rank: int | None
    before: Cell
    after: Cell | None
    skill: Difference | None
    skill_n: int
    command: str


def overview(study: StudyTable, weights: WeightRecords) -> list[OverviewRow]:
    """A row for each fine-tune, in the order of the page."""
    advice = advice_by_digest(study.targets)
    return [_row(title, target, advice[target.digest], weights) for title, target in target_titles(study)]


def _row(title: str, target: TargetResult, advice: RankAdvice, weights: WeightRecords) -> OverviewRow:
    verdict = target.verdict
    graft = verdict.graft
    return OverviewRow(
        title=title,
        strength=WORDS[strength(verdict)],
        advice=advice.advice,
        rank=verdict.rank,
        before=verdict.alone.needle,
        after=graft.needle if graft else None,
        skill=skill_difference(graft, verdict.alone) if graft else None,
        skill_n=(graft.pairs.n or graft.skill.proportion.n) if graft else 0,
        command=_command(target, advice.rank, weights) if advice.advice is Advice.USE else "",
    )


def _command(target: TargetResult, rank: int | None, weights: WeightRecords) -> str:
    """The command that makes the graft; empty if no adapter of the rank is known."""
    adapter = next((adapter.path for adapter in weights.adapters if adapter.rank == rank), "")
    if not adapter:
        return ""
    source, out = _source(target, weights), f"{target.name}-r{rank}"
    return shlex.join(["contextgraft", "merge", "--adapter", adapter, "--target", source, "--out", out])


def _source(target: TargetResult, weights: WeightRecords) -> str:
    """Where the fine-tune was fetched from, by records of its grafts; its name if that is a local path."""
    records = (graft.target for graft in weights.grafts if graft.target.get("digest") == target.digest)
    record = next((record for record in records if not is_local(record.get("source") or "")), {})
    source, revision = str(record.get("source") or target.name), record.get("revision")
    fixed = hub_repository(source) is None or "@" in source or not revision
    return source if fixed else f"{source}@{revision}"
