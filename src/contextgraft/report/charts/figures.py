"""All charts of a study: drawn once, as files and as parts of the page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from contextgraft.report.charts import energy, heatmap, matrix, ranks, weight_figures
from contextgraft.report.charts.curves.figures import depth_figures, perplexity_figures
from contextgraft.report.charts.svg import Figure, as_file, as_picture, figure, slug
from contextgraft.report.data.labels import (
    OTHERS,
    REFERENCES,
    family_labels,
    reference_titles,
    target_titles,
)
from contextgraft.report.statistics.cells import NEEDLE, ModelKey
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.rank_matrix import MatrixLine
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult
from contextgraft.report.statistics.weights import (
    ALL_MODULES,
    RankEnergy,
    WeightRecords,
    energy_by_layer,
    energy_by_rank,
)
from contextgraft.report.tables.score_tables import condition_filter
from contextgraft.report.tables.wording import length_in_words, percent

MOST_CHARTED = 24  # fine-tunes; more charts than these are slow to draw, and the page too large to open
MOST_SQUARES = 2000  # of a heatmap
MOST_LINES = 200  # fine-tunes in the matrix; the overview of the page has them all


@dataclass(frozen=True)
class FigureGroup:
    """Charts that the page shows under one heading."""

    title: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Figures:
    """The charts of the page and those that are files only."""

    ranks: tuple[Figure, ...]
    heatmaps: tuple[FigureGroup, ...]
    depth: tuple[Figure, ...]
    perplexity: tuple[Figure, ...]
    energy: Figure | None
    energy_by_layer: Figure | None
    alignment: tuple[Figure, ...]
    overview: Figure | None
    matrix: Figure | None

    @property
    def all(self) -> list[Figure]:
        """Every chart that exists, in the order of the files."""
        shown = [*self.ranks, *(figure for group in self.heatmaps for figure in group.figures)]
        shown += [*self.depth, *self.perplexity, *self.alignment]
        single = (self.energy, self.energy_by_layer, self.overview, self.matrix)
        return [*shown, *(figure for figure in single if figure is not None)]

    def files(self) -> dict[str, str]:
        """File name and text of every chart."""
        return {f"charts/{figure.name}.svg": as_file(figure.svg) for figure in self.all}

    def pictures(self) -> dict[str, bytes]:
        """File name and bytes of every chart as PNG."""
        return {f"charts/{figure.name}.png": as_picture(figure.svg) for figure in self.all}


def draw(
    study: StudyTable, lines: Sequence[MatrixLine], measurements: Measurements, weights: WeightRecords
) -> Figures:
    """Every chart that the samples and sidecars have data for.

    A study of more than MOST_CHARTED fine-tunes has only the charts of the study as a whole.
    """
    single = is_charted(study)
    charted = target_titles(study) if single else []
    grafted = [(title, target) for title, target in charted if target.grafts]
    axes = ranks.axes([target for _, target in grafted])
    return Figures(
        ranks=tuple(_rank_figure(study, title, target, axes) for title, target in grafted),
        heatmaps=_heatmaps(study, charted),
        depth=depth_figures(study) if single else (),
        perplexity=perplexity_figures(study, measurements) if single else (),
        energy=_energy_figure(energy_by_rank(weights.adapters)),
        energy_by_layer=weight_figures.layer_energy_figure(energy_by_layer(weights.adapters)),
        alignment=weight_figures.alignment_figures(weights.alignments) if single else (),
        matrix=_matrix_figure(study, lines),
        overview=_overview_figure(study, grafted, axes),
    )


def _rank_figure(study: StudyTable, title: str, target: TargetResult, axes: ranks.Axes) -> Figure:
    label = f"{title}: needles found by rank of the adapter: {_series(target)}"
    return figure(f"effect_of_rank_{slug(title)}", title, ranks.spec(target, axes, study.donor), label)


def _series(target: TargetResult) -> str:
    scores = [(row.model.rank, row.long.proportion.score) for row in target.grafts]
    return (
        ", ".join(f"rank {rank} {percent(score)}" for rank, score in scores if score is not None)
        or "not measured"
    )


def _overview_figure(
    study: StudyTable, grafted: Sequence[tuple[str, TargetResult]], axes: ranks.Axes
) -> Figure | None:
    if not grafted:
        return None
    specs = [ranks.spec(target, axes, study.donor, title) for title, target in grafted]
    length = length_in_words(study.longest, study.context)
    heading = f"Needles found at {length}, and skill kept, by rank of the adapter"
    series = ". ".join(f"{title}: {_series(target)}" for title, target in target_titles(study))
    return figure(
        "effect_of_rank", "Effect of rank", ranks.side_by_side(specs, heading), f"Effect of rank. {series}."
    )


def is_charted(study: StudyTable) -> bool:
    """Whether single fine-tunes have charts of their own."""
    return len(study.targets) <= MOST_CHARTED


def _heatmaps(study: StudyTable, charted: Sequence[tuple[str, TargetResult]]) -> tuple[FigureGroup, ...]:
    groups = [(REFERENCES, reference_titles(study.references))]
    for title, target in charted:
        rows = [target.alone, target.theta, *([target.best] if target.best else [])]
        groups.append((title, [(row.label, row) for row in rows]))
    groups.append((OTHERS, reference_titles(study.others) if is_charted(study) else []))
    labels = family_labels(study)
    drawn = [
        FigureGroup(title, tuple(_heatmaps_of(study, labels, title, rows[:MOST_CHARTED])))
        for title, rows in groups
    ]
    return tuple(group for group in drawn if group.figures)


def _heatmaps_of(
    study: StudyTable,
    labels: Mapping[ModelKey, tuple[str, str]],
    group: str,
    rows: Sequence[tuple[str, ModelRow]],
) -> Iterator[Figure]:
    for name, row in rows:
        if row.condition and len(study.by_length_and_depth(row)) <= MOST_SQUARES:
            yield _heatmap(study, labels, group, name, row)


def _heatmap(
    study: StudyTable, labels: Mapping[ModelKey, tuple[str, str]], group: str, name: str, row: ModelRow
) -> Figure:
    """One row's needles; `labels` has the family and label of its samples, which the squares link to."""
    assert row.condition is not None, "rows without needles have no heatmap"
    family, label = labels[row.model]
    filters = {"tune": family, "row": label, "suite": NEEDLE, **condition_filter(row.condition)}
    squares = heatmap.squares(study.groups, row.model, row.condition, filters)
    description = f"{group}, {name}: needles found, {heatmap.summary(squares)}"
    return figure(f"heatmap_{slug(group)}_{slug(name)}", name, heatmap.spec(squares), description)


def _energy_figure(energies: Sequence[RankEnergy]) -> Figure | None:
    if not energies:
        return None
    totals = [energy for energy in energies if energy.kind == ALL_MODULES]
    series = ", ".join(f"rank {energy.rank} {percent(energy.mean)}" for energy in totals)
    label = f"Energy of the delta held: {series}"
    return figure("energy_by_rank", "Energy by rank", energy.spec(energies), label)


def _matrix_figure(study: StudyTable, lines: Sequence[MatrixLine]) -> Figure | None:
    if not lines or len(lines) > MOST_LINES:
        return None
    title = "Context gained and skill kept, by fine-tune and rank"
    length = length_in_words(study.longest, study.context)
    label = f"Needles found at {length} above the fine-tune alone: {matrix.summary(lines)}."
    return figure("matrix", title, matrix.spec(lines, title), label)
