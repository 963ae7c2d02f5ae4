"""summary.json: every row with its numbers, for programs and `dvc metrics`."""

from collections.abc import Sequence
from typing import Any

from contextgraft._version import __version__
from contextgraft.report.data.adapter_records import WHOLE, Energy
from contextgraft.report.data.rejections import Refusal
from contextgraft.report.data.titles import reference_titles, tune_titles
from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import Pairs
from contextgraft.report.statistics.proportion import Tally
from contextgraft.report.statistics.rank_matrix import line as matrix_line
from contextgraft.report.statistics.study_table import FineTune, Row, Study


def summarise(
    study: Study, headline: str, energies: Sequence[Energy], refused: Sequence[Refusal] = ()
) -> dict[str, Any]:
    """All rows of the page as nested numbers; shares and intervals from 0 to 1, differences in points."""
    return {
        "contextgraft": __version__,
        "headline": headline,
        "context": study.context,
        "short": study.short,
        "longest": study.longest,
        "references": {title: _row(row) for title, row in reference_titles(study.references)},
        "fine_tunes": {title: _fine_tune(tune) for title, tune in tune_titles(study)},
        "others": {title: _row(row) for title, row in reference_titles(study.others)},
        "refused": {each.name: {"verb": each.verb, "reason": each.reason} for each in refused},
        "energy": {f"r{item.rank}": item.mean for item in energies if item.kind == WHOLE},
    }


def _fine_tune(tune: FineTune) -> dict[str, Any]:
    line = matrix_line(tune.name, tune)
    verdict = {
        "outcome": tune.verdict.outcome.value,
        "rank": tune.verdict.rank,
        "without_adapter": tune.verdict.needless,
        "front": sorted(rank for rank, spot in line.spots.items() if spot.front),
    }
    return {"digest": tune.digest, "verdict": verdict, "rows": {row.label: _row(row) for row in tune.rows}}


def _row(row: Row) -> dict[str, Any]:
    cells = {"needle_short": _cell(row.short), "needle_longest": _cell(row.long), "skill": _cell(row.skill)}
    if row.step is None:
        return cells
    return {
        **cells,
        "skill_points": {"difference": row.step.points, "low": row.step.low, "high": row.step.high},
        **({"skill_pairs": _pairs(row.pairs)} if row.pairs.n else {}),
    }


def _pairs(pairs: Pairs) -> dict[str, Any]:
    counts = {"n": pairs.n, "won": pairs.wins, "lost": pairs.losses, "equal": pairs.ties}
    return counts if pairs.p_value is None else {**counts, "p": pairs.p_value}


def _cell(cell: Cell) -> dict[str, Any]:
    donors = {donor: _tally(tally) for donor, tally in cell.by_donor} if len(cell.by_donor) > 1 else {}
    return {**_tally(cell.tally), **({"by_donor": donors} if donors else {})}


def _tally(tally: Tally) -> dict[str, Any]:
    counts = {"n": tally.n, "truncated": tally.truncated, "skipped": tally.skipped, "failed": tally.failed}
    if tally.score is None:
        return {**counts, "score": None, "reason": tally.gap}
    low, high = tally.interval
    return {**counts, "score": tally.score, "low": low, "high": high}
