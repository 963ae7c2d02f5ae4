"""summary.json: every row with its numbers, for programs and `dvc metrics`."""

from collections.abc import Sequence
from typing import Any

from contextgraft._version import __version__
from contextgraft.report.data.document_pairs import DocumentPairs
from contextgraft.report.data.labels import family_labels, reference_titles, target_titles
from contextgraft.report.data.lm_eval_results import LmEvalScore
from contextgraft.report.page import PageData
from contextgraft.report.statistics.cells import REPEATED, Cell
from contextgraft.report.statistics.clusters import TextShares
from contextgraft.report.statistics.paired import LengthPairs, PairCounts
from contextgraft.report.statistics.proportion import INDEPENDENT, PAIRED, Difference, Proportion
from contextgraft.report.statistics.rank_matrix import matrix_line
from contextgraft.report.statistics.study_table import ModelRow, TargetResult
from contextgraft.report.statistics.verdict import ControlComparison, strength
from contextgraft.report.statistics.weights import ALL_MODULES, energy_by_rank

RIGHT = ("won", "lost")
REPEATING = ("repeats_more", "repeats_less")


def summarise(page: PageData) -> dict[str, Any]:
    """All rows of the page as nested numbers; shares and intervals from 0 to 1, differences in points."""
    study = page.results.study
    energies = [energy for energy in energy_by_rank(page.weights.adapters) if energy.kind == ALL_MODULES]
    other_suites = _other_suites(page)
    return {
        "contextgraft": __version__,
        "headline": page.results.headline,
        "context": study.context,
        "short": study.short,
        "longest": study.longest,
        "references": {title: _row(page, row) for title, row in reference_titles(study.references)},
        "fine_tunes": {title: _target(page, target) for title, target in target_titles(study)},
        "others": {title: _row(page, row) for title, row in reference_titles(study.others)},
        "refused": {
            refusal.name: {"verb": refusal.verb, "reason": refusal.reason} for refusal in page.origin.refusals
        },
        "energy": {f"r{energy.rank}": energy.mean for energy in energies},
        **({"other_suites": other_suites} if other_suites else {}),
        **({"lm_eval": [_lm_eval(score) for score in page.lm_eval]} if page.lm_eval else {}),
        **({"lm_eval_pairs": list(map(_document_pairs, page.lm_eval_pairs))} if page.lm_eval_pairs else {}),
    }


def _lm_eval(score: LmEvalScore) -> dict[str, Any]:
    """A row of lm-evaluation-harness: its score, or why it was refused."""
    row = {"file": score.file, "model": score.model, "task": score.task, "metric": score.metric}
    if score.value is None:
        return {**row, "value": None, "reason": score.reason}
    numbers = {"value": score.value, "stderr": score.stderr, "n": score.n}
    return {**row, **numbers, "higher_is_better": score.higher_is_better}


def _document_pairs(item: DocumentPairs) -> dict[str, Any]:
    """A metric of a graft and its fine-tune on the same documents, or why there is no pair."""
    names = {"fine_tune": item.fine_tune, "graft": item.graft, "task": item.task, "metric": item.metric}
    if item.reason:
        return {**names, "difference": None, "reason": item.reason}
    low, high = item.interval or (None, None)
    means = {"n": item.n, "fine_tune_mean": item.before, "graft_mean": item.after}
    return {**names, **means, "difference": item.difference, "low": low, "high": high, "p": item.p_value}


def _target(page: PageData, target: TargetResult) -> dict[str, Any]:
    line = matrix_line(target.name, target, page.results.study)
    verdict: dict[str, Any] = {
        "outcome": target.verdict.outcome.value,
        "rank": target.verdict.rank,
        "strength": strength(target.verdict).value,
        "without_adapter": target.verdict.adapter_unneeded,
        "front": sorted(rank for rank, cell in line.cells.items() if cell.on_front),
    }
    verdict |= target.verdict.split_sizes
    over = {item.label: _comparison(item) for item in target.verdict.comparisons}
    return {
        "digest": target.digest,
        "verdict": verdict,
        **({"over_controls": over} if over else {}),
        "rows": {row.label: _row(page, row) for row in target.rows},
    }


def _comparison(comparison: ControlComparison) -> dict[str, Any]:
    """The graft minus a control, in points, from the prompts that both answered."""
    return {
        name: {"n": pairs.n, **_points(points), **_pairs_by_text(pairs)}
        for name, pairs in {"needles": comparison.needles, "skill": comparison.skill}.items()
        if (points := pairs.difference)
    }


def _points(points: Difference) -> dict[str, Any]:
    """A difference in points, with its interval."""
    numbers = {"difference": points.points, "low": points.low, "high": points.high}
    return numbers | _method(points.method)


def _method(name: str) -> dict[str, str]:
    """The method of an interval other than Newcombe's."""
    return {} if name in (INDEPENDENT, PAIRED) else {"interval": name}


def _pairs_by_text(pairs: PairCounts) -> dict[str, Any]:
    """How many texts the prompts share, and the interval over them, in points."""
    points = pairs.by_text
    return {"texts": {"n": len(pairs.texts), "low": points.low, "high": points.high}} if points else {}


def _row(page: PageData, row: ModelRow) -> dict[str, Any]:
    study = page.results.study
    cells = {
        "needle_short": _cell(row.short) | _texts(study.by_text(row, study.short)),
        "needle_longest": _cell(row.long) | _texts(study.by_text(row, study.longest)),
        "skill": _cell(row.skill),
    }
    depths = {f"{depth:g}": _proportion(cell.proportion) for depth, cell in study.by_depth(row).items()}
    cells |= {"needle_longest_by_depth": depths} if depths else {}
    measurements = page.results.measurements
    for name, own, sides in (
        ("skill_at_length", measurements.long_skills_by_model, ("long", "short")),
        ("repetition", measurements.repetitions_by_model, ("share", "alone")),
    ):
        cells |= {name: _by_length(own[row.model], sides)} if row.model in own else {}
    difference = row.skill_difference
    if difference is None:
        return cells
    return {
        **cells,
        "skill_points": _points(difference),
        **({"skill_pairs": _pairs(row.pairs)} if row.pairs.n else {}),
    }


def _by_length(own: Sequence[LengthPairs], sides: tuple[str, str]) -> dict[str, Any]:
    """By task and length: the shares of both sides, and the paired difference."""
    tasks: dict[str, Any] = {}
    for item in own:
        points = item.pairs.difference
        assert points is not None, "a pair has a difference"
        low, high = item.interval or (None, None)
        name = f"{item.task}, {item.scoring}" if item.scoring else item.task
        tasks.setdefault(name, {})[str(item.length or "short")] = {
            **dict(zip(sides, (item.pairs.first, item.pairs.second), strict=True)),
            **{"difference": points.points, "low": low, "high": high, **_method(item.method)},
            **_pairs(item.pairs, REPEATING if item.scoring == REPEATED else RIGHT),
            **_pairs_by_text(item.pairs),
        }
    return tasks


def _pairs(pairs: PairCounts, names: tuple[str, str] = RIGHT) -> dict[str, Any]:
    """`names` are those of the pairs whose first side has the higher, or the lower score."""
    counts = {"n": pairs.n, names[0]: pairs.wins, names[1]: pairs.losses, "equal": pairs.ties}
    return counts if pairs.p_value is None else {**counts, "p": pairs.p_value}


def _cell(cell: Cell) -> dict[str, Any]:
    donors = {donor: _proportion(shares) for donor, shares in cell.by_donor} if len(cell.by_donor) > 1 else {}
    return {**_proportion(cell.proportion), **({"by_donor": donors} if donors else {})}


def _texts(shares: TextShares | None) -> dict[str, Any]:
    """How many texts the questions share, and the interval over them."""
    if shares is None:
        return {}
    low, high = shares.interval or (None, None)
    return {"texts": {"n": shares.texts, "low": low, "high": high}}


def _proportion(proportion: Proportion) -> dict[str, Any]:
    counts = {name: getattr(proportion, name) for name in ("n", "truncated", "skipped", "failed")}
    if proportion.score is None:
        return {**counts, "score": None, "reason": proportion.unscored_reason}
    low, high = proportion.interval
    return {**counts, "score": proportion.score, "low": low, "high": high}


def _other_suites(page: PageData) -> dict[str, list[dict[str, Any]]]:
    """Suites without a section of their own: a list of mean scores with n and interval for each."""
    labels = family_labels(page.results.study)
    suites: dict[str, list[dict[str, Any]]] = {}
    for scores in page.results.measurements.other_suites:
        family, label = labels[scores.model]
        low, high = scores.interval or (None, None)
        counts = {name: getattr(scores.counts, name) for name in ("n", "truncated", "skipped", "failed")}
        score: dict[str, Any] = {"score": None, "reason": scores.counts.unscored_reason}
        if scores.mean is not None:
            score = {"score": scores.mean.mean, "low": low, "high": high}
        task = {"task": scores.task, "scoring": scores.scoring, "length": scores.length}
        suites.setdefault(scores.suite, []).append(
            {"family": family, "model": label, **task, **counts, **score}
        )
    return suites
