"""Tables of effective lengths, perplexities, divergences, other suites and survival after rounding: pure."""

from collections.abc import Sequence

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.formats.graft_record import GraftRecord
from contextgraft.report.charts.curves.perplexity import three_digits
from contextgraft.report.charts.theme import heat
from contextgraft.report.data.labels import ModelFamily, families
from contextgraft.report.data.sample_browser import link
from contextgraft.report.statistics.cells import ModelKey
from contextgraft.report.statistics.effective_length import ModelEffectiveLength
from contextgraft.report.statistics.means import (
    DIVERGENCE,
    PERPLEXITY,
    MeanDivergence,
    Measurements,
    SuiteScore,
)
from contextgraft.report.statistics.proportion import NOT_EVALUATED
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.statistics.weights import survival
from contextgraft.report.tables.score_tables import length_label
from contextgraft.report.tables.table import (
    ScoreTable,
    TableCell,
    TableRow,
    TableSection,
    score_cell,
    shown_columns,
)
from contextgraft.report.tables.wording import DASH, between, percent, thousands, trimmed

MOST_SUITES = 50  # with sections on the page
AVERAGES = ("wAvg (inc)", "wAvg (dec)")  # RULER's names: the weights of the lengths rise, or fall


def effective_length_tables(
    by_family: Sequence[tuple[str, Sequence[ModelEffectiveLength]]],
) -> list[ScoreTable]:
    """RULER's mean by length, and the effective length or the number of missing tasks."""
    tables = []
    for title, models in by_family:
        lengths = sorted({mean.length for model in models for mean in model.means})
        rows = tuple(
            TableRow(
                model.label,
                (*_mean_cells(model, lengths), _effective_length_cell(model), *_average_cells(model)),
            )
            for model in models
        )
        columns = (*(f"mean at {thousands(length)}" for length in lengths), "effective length", *AVERAGES)
        missing = dict.fromkeys(name for model in models for name in model.length.missing)
        note = f"Tasks without scores at every length: {', '.join(missing)}." if missing else ""
        tables.append(ScoreTable(title, columns, (TableSection("", rows),), note))
    return tables


def _mean_cells(model: ModelEffectiveLength, lengths: Sequence[int]) -> list[TableCell]:
    means = {mean.length: mean for mean in model.means}
    return [
        TableCell(
            trimmed(means[length].mean),
            f"{between((means[length].low / 100, means[length].high / 100))} of {means[length].tasks} tasks",
            fill=heat(means[length].mean / 100),
        )
        if length in means
        else TableCell(missing=NOT_EVALUATED)
        for length in lengths
    ]


def _effective_length_cell(model: ModelEffectiveLength) -> TableCell:
    if model.length.length is None:
        complete = len(RULER_TASKS) - len(model.length.missing)
        return TableCell(
            missing=f"not computed: only {complete} of {len(RULER_TASKS)} tasks have scores at every length"
        )
    return TableCell(
        thousands(model.length.length) if model.length.length else "at no length above the threshold",
        f"threshold {trimmed(model.threshold)} %",
    )


def _average_cells(model: ModelEffectiveLength) -> list[TableCell]:
    averages = (model.length.rising, model.length.falling)
    return [TableCell(missing=NOT_EVALUATED) if a is None else TableCell(trimmed(a)) for a in averages]


def perplexity_tables(study: StudyTable, measurements: Measurements) -> list[ScoreTable]:
    """Perplexity over whole windows: a column for each text and length."""
    evaluated = {perplexity.model for perplexity in measurements.perplexities}
    evaluated |= {unscored.model for unscored in measurements.unscored}
    tables = []
    for family in families(study):
        measured = [item for item in family.models if item[1] in evaluated]
        windows, note = shown_columns(measurements.windows(model for _, model in measured), len(measured))
        rows = tuple(
            TableRow(
                label,
                tuple(
                    _perplexity_cell(measurements, (model, task, length), (family.name, label))
                    for task, length in windows
                ),
            )
            for label, model in measured
        )
        if windows:
            columns = tuple(f"{task}, {thousands(length)} tokens" for task, length in windows)
            tables.append(ScoreTable(family.name, columns, (TableSection("", rows),), note))
    return tables


def _perplexity_cell(
    measurements: Measurements, window: tuple[ModelKey, str, int], labels: tuple[str, str]
) -> TableCell:
    model, task, length = window
    whole = measurements.whole(model, task, length)
    if whole is None:
        return TableCell(missing=measurements.missing_reason(model, PERPLEXITY, task, length))
    address = link(tune=labels[0], row=labels[1], suite=PERPLEXITY, task=task, length=length)
    pair = whole.interval
    interval = f"[{three_digits(pair[0])}, {three_digits(pair[1])}] " if pair else ""
    return TableCell(three_digits(whole.perplexity), f"{interval}n={whole.nats.n}", link=address)


def divergence_tables(study: StudyTable, measurements: Measurements) -> list[ScoreTable]:
    """Mean KL and agreement with the original fine-tune, a section for each text."""
    tables = []
    for family in families(study):
        models = [model for _, model in family.models]
        by_model = measurements.divergences_by_model
        own = [divergence for model in models for divergence in by_model.get(model, ())]
        missing = [
            unscored
            for model in models
            for unscored in measurements.unscored_by_model.get(model, ())
            if unscored.suite == DIVERGENCE
        ]
        evaluated = {divergence.model for divergence in own} | {unscored.model for unscored in missing}
        tasks = {divergence.task for divergence in own} | {unscored.task for unscored in missing}
        sections = tuple(
            TableSection(
                ", ".join([task, *_lengths([divergence for divergence in own if divergence.task == task])]),
                tuple(
                    TableRow(label, _divergence_cells(measurements, (model, task), (family.name, label)))
                    for label, model in family.models
                    if model in evaluated
                ),
            )
            for task in sorted(tasks)
        )
        if sections:
            tables.append(ScoreTable(family.name, ("mean KL, nats", "same first token"), sections))
    return tables


def _divergence_cells(
    measurements: Measurements,
    wanted: tuple[ModelKey, str],
    labels: tuple[str, str],
) -> tuple[TableCell, ...]:
    model, task = wanted
    own = measurements.divergences_by_model.get(model, ())
    divergence = next((row for row in own if row.task == task), None)
    if divergence is None:
        return (TableCell(missing=measurements.missing_reason(model, DIVERGENCE, task)),) * 2
    address = link(tune=labels[0], row=labels[1], suite=DIVERGENCE, task=task)
    kl, same = divergence.kl_interval, divergence.agreement_interval
    size, positions = f"n={thousands(divergence.kl.n)}", f"{thousands(divergence.tokens)} positions"
    return (
        TableCell(
            f"{divergence.kl.mean:.3g}", f"[{kl[0]:.3g}, {kl[1]:.3g}] {size}" if kl else size, link=address
        ),
        TableCell(percent(divergence.agreement.mean), f"{between(same)} {positions}" if same else positions),
    )


def _lengths(own: Sequence[MeanDivergence]) -> list[str]:
    """`128 tokens`, `12–40 tokens`."""
    if not own:
        return []
    low, high = min(row.lengths[0] for row in own), max(row.lengths[1] for row in own)
    return [f"{thousands(low)} tokens" if low == high else f"{thousands(low)}{DASH}{thousands(high)} tokens"]


def other_suite_tables(study: StudyTable, measurements: Measurements) -> dict[str, list[ScoreTable]]:
    """By suite without a section of its own: a column for each model, a section for each task and metric."""
    suites = sorted({score.suite for score in measurements.other_suites})
    grouped = families(study)
    return {
        suite: [table for family in grouped if (table := _suite_table(family, suite, measurements)).columns]
        for suite in suites[:MOST_SUITES]
    }


def _suite_table(family: ModelFamily, suite: str, measurements: Measurements) -> ScoreTable:
    by_model = measurements.other_suites_by_model
    scores = [
        score for _, model in family.models for score in by_model.get(model, ()) if score.suite == suite
    ]
    models = {score.model for score in scores}
    by_row: dict[tuple[str, str, int | None], dict[ModelKey, SuiteScore]] = {}
    for score in scores:
        by_row.setdefault((score.task, score.scoring, score.length), {})[score.model] = score
    columns, note = shown_columns([item for item in family.models if item[1] in models], len(by_row))
    sections: dict[str, list[TableRow]] = {}
    for (task, scoring, length), row in sorted(
        by_row.items(), key=lambda item: (*item[0][:2], item[0][2] or 0)
    ):
        cells = tuple(_suite_cell(row.get(model), (family.name, label)) for label, model in columns)
        title = ", ".join(name for name in (task, scoring) if name)
        sections.setdefault(title, []).append(TableRow(length_label(length), cells))
    return ScoreTable(
        family.name,
        tuple(label for label, _ in columns),
        tuple(TableSection(title, tuple(rows)) for title, rows in sections.items()),
        note,
    )


def _suite_cell(score: SuiteScore | None, labels: tuple[str, str]) -> TableCell:
    if score is None:
        return TableCell(missing=NOT_EVALUATED)
    address = link(
        tune=labels[0], row=labels[1], suite=score.suite, task=score.task or None, length=score.length
    )
    if score.is_share or score.mean is None:
        return score_cell(score.counts, address)
    pair = score.interval
    interval = f"[{pair[0]:.3g}, {pair[1]:.3g}] " if pair else ""
    unscored = f", not scored: {score.counts.unscored_reason}" if score.counts.unscored else ""
    return TableCell(
        f"{score.mean.mean:.3g}", f"{interval}n={thousands(score.mean.n)}{unscored}", link=address
    )


def survival_table(grafts: Sequence[GraftRecord]) -> ScoreTable | None:
    """How much of each graft's delta is left after rounding, by kind of module; None without a delta."""
    by_graft = [(graft, {kept.kind: kept for kept in survival(graft)}) for graft in grafts if graft.scale]
    kinds = list(dict.fromkeys(kind for _, survived in by_graft for kind in survived))
    if not kinds:
        return None
    sections: dict[str, list[TableRow]] = {}
    for graft, survived in by_graft:
        cells = tuple(
            TableCell(
                value=_two_decimals(survived[kind].kept),
                detail=f"lowest {_two_decimals(survived[kind].lowest)}, {survived[kind].tensors} tensors",
            )
            if kind in survived
            else TableCell(missing="no delta")
            for kind in kinds
        )
        rank = graft.name if graft.rank is None else f"r{graft.rank}"
        scale = "" if graft.scale == 1 else f" × {graft.scale:g}"
        donor = f", {graft.donor['name']}" if graft.donor.get("name") else ""
        title = str(graft.target.get("name", DASH))
        sections.setdefault(title, []).append(TableRow(f"{rank}{scale}{donor}", cells))
    return ScoreTable(
        "Survival of the delta",
        tuple(kinds),
        tuple(TableSection(title, tuple(rows)) for title, rows in sections.items()),
    )


def _two_decimals(share: float) -> str:
    """A share near 1 with enough digits to distinguish it from 1."""
    return f"{100 * share:.2f} %"
