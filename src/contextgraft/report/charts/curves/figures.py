"""Charts with one line for each model: needles by depth, perplexity by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from contextgraft.report.charts.curves import depth, perplexity
from contextgraft.report.charts.svg import Figure, figure, slug
from contextgraft.report.charts.theme import PALETTE
from contextgraft.report.data.labels import target_titles
from contextgraft.report.statistics.cells import ModelKey
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult
from contextgraft.report.tables.wording import thousands

SOLID = (1, 0)
MOST_CURVES = 24  # in one chart
MOST_CHARTS = 100
MOST_DEPTHS = 50  # in one chart
REFERENCE_ROLES = "base", "donor"
COLOURS = ("needle", "skill", "donor", "alone", "theta")


@dataclass(frozen=True)
class CurveStyle:
    """A row of the table in one chart: its colour of the palette and its dashes."""

    row: ModelRow
    colour: str
    dash: tuple[int, int]

    @property
    def model(self) -> ModelKey:
        """The model of the row."""
        return self.row.model


def depth_figures(study: StudyTable) -> tuple[Figure, ...]:
    """Needles by depth at the longest length, a chart for each fine-tune; none with fewer than two depths."""
    figures = [_depth_figure(study, title, styles) for title, styles in _charts(study)]
    return tuple(figure for figure in figures if figure is not None)


def perplexity_figures(study: StudyTable, measurements: Measurements) -> tuple[Figure, ...]:
    """A chart for each fine-tune and text at its longest windows; of all models if there is no fine-tune."""
    figures = []
    for title, styles in _charts(study):
        models = [style.model for style in styles]
        # without base and donor, whose text may be another, unless there are no others
        own = [model for model in models if model.role not in REFERENCE_ROLES] or models
        for task, longest in sorted(dict(measurements.windows(own)).items())[:MOST_CHARTS]:
            figures.append(_perplexity_figure(title, task, longest, styles, measurements))
    return tuple(figure for figure in figures if figure is not None)


def _charts(study: StudyTable) -> list[tuple[str, list[CurveStyle]]]:
    """Title and models of each chart: one for each fine-tune, or one of all models if there is none."""
    targets = [(title, _target_styles(study, target)) for title, target in target_titles(study)]
    return targets or [("models", _all_styles(study))]


def _target_styles(study: StudyTable, target: TargetResult) -> list[CurveStyle]:
    """Controls, the graft that the verdict names, donor and base."""
    rows: list[tuple[ModelRow | None, str, tuple[int, int]]] = [
        (target.alone, "alone", (1, 3)),
        (target.theta, "theta", (6, 3)),
        (target.best, "needle", SOLID),
        (study.donor, "donor", SOLID),
        (study.base, "muted", SOLID),
    ]
    return [CurveStyle(row, colour, dash) for row, colour, dash in rows if row is not None]


def _all_styles(study: StudyTable) -> list[CurveStyle]:
    """The first models of a study without fine-tunes."""
    rows = {row.model: row for row in study.rows[:MOST_CURVES]}
    return [
        CurveStyle(row, colour, SOLID) for row, colour in zip(rows.values(), cycle(COLOURS), strict=False)
    ]


def _depth_figure(study: StudyTable, title: str, styles: Sequence[CurveStyle]) -> Figure | None:
    curves = [
        depth.DepthCurve(style.row.label, PALETTE[style.colour], style.dash, cells)
        for style in styles
        if (cells := study.by_depth(style.row))
    ]
    if not 2 <= len({at for curve in curves for at in curve.cells}) <= MOST_DEPTHS:
        return None
    label = f"{title}: needles found by depth at {thousands(study.longest)} tokens: {depth.summary(curves)}"
    return figure(f"depth_{slug(title)}", title, depth.spec(curves), label)


def _perplexity_figure(
    title: str, task: str, length: int, styles: Sequence[CurveStyle], measurements: Measurements
) -> Figure | None:
    curves = [
        perplexity.Curve(
            style.row.label,
            PALETTE[style.colour],
            style.dash,
            tuple(measurements.curve(style.model, task, length)),
        )
        for style in styles
    ]
    if not any(curve.points for curve in curves):
        return None
    name = f"{title}: {task}, windows of {thousands(length)} tokens"
    label = f"Perplexity by position, {name}: {perplexity.summary(curves)}"
    return figure(f"perplexity_{slug(title)}_{slug(task)}", name, perplexity.spec(curves), label)
