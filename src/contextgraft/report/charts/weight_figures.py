"""Charts of perplexity, of energy by layer and of the alignment of deltas."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from contextgraft.formats.read_alignment import LayerAlignment
from contextgraft.report.charts import layers, perplexity
from contextgraft.report.charts.svg import Figure, figure, slug
from contextgraft.report.charts.theme import PALETTE
from contextgraft.report.data.labels import target_titles
from contextgraft.report.statistics.cells import ModelKey
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult
from contextgraft.report.statistics.weights import LayerEnergy
from contextgraft.report.tables.wording import thousands

SOLID = (1, 0)
MOST_CURVES = 24  # in one chart
MOST_CHARTS = 100
REFERENCE_ROLES = "base", "donor"
COLOURS = ("needle", "skill", "donor", "alone", "theta")


@dataclass(frozen=True)
class CurveStyle:
    """A model of one chart of perplexity: its label, its colour of the palette and its dashes."""

    label: str
    model: ModelKey
    colour: str
    dash: tuple[int, int]


def perplexity_figures(study: StudyTable, measurements: Measurements) -> tuple[Figure, ...]:
    """A chart for each fine-tune and text at its longest windows; of all models if there is no fine-tune."""
    targets = [(title, _target_styles(study, target)) for title, target in target_titles(study)]
    figures = []
    for title, styles in targets or [("models", _all_styles(study))]:
        models = [style.model for style in styles]
        # without base and donor, whose text may be another, unless there are no others
        own = [model for model in models if model.role not in REFERENCE_ROLES] or models
        for task, longest in sorted(dict(measurements.windows(own)).items())[:MOST_CHARTS]:
            figures.append(_perplexity_figure(title, task, longest, styles, measurements))
    return tuple(figure for figure in figures if figure is not None)


def _target_styles(study: StudyTable, target: TargetResult) -> list[CurveStyle]:
    """Controls, the graft that the verdict names, donor and base."""
    rows: list[tuple[ModelRow | None, str, tuple[int, int]]] = [
        (target.alone, "alone", (1, 3)),
        (target.theta, "theta", (6, 3)),
        (target.best, "needle", SOLID),
        (study.donor, "donor", SOLID),
        (study.base, "muted", SOLID),
    ]
    return [CurveStyle(row.label, row.model, colour, dash) for row, colour, dash in rows if row is not None]


def _all_styles(study: StudyTable) -> list[CurveStyle]:
    """The first models of a study without fine-tunes."""
    labels = {row.model: row.label for row in study.rows[:MOST_CURVES]}
    return [
        CurveStyle(label, model, colour, SOLID)
        for (model, label), colour in zip(labels.items(), cycle(COLOURS), strict=False)
    ]


def _perplexity_figure(
    title: str, task: str, length: int, styles: Sequence[CurveStyle], measurements: Measurements
) -> Figure | None:
    curves = [
        perplexity.Curve(
            style.label,
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


def layer_energy_figure(energies: Sequence[LayerEnergy]) -> Figure | None:
    """Energy captured by layer and kind of module, a panel for each rank."""
    if not energies:
        return None
    ranks = sorted({energy.rank for energy in energies})
    means = {rank: [energy.mean for energy in energies if energy.rank == rank] for rank in ranks}
    ranges = "; ".join(
        f"rank {rank} {100 * min(means[rank]):.0f} to {100 * max(means[rank]):.0f} %" for rank in ranks
    )
    label = f"Energy held by layer and kind of module: {ranges}"
    return figure("energy_by_layer", "Energy by rank, layer and module", layers.energies(energies), label)


def alignment_figures(alignments: Sequence[LayerAlignment]) -> tuple[Figure, ...]:
    """Cosines by layer, a chart for each fine-tune and donor or adapter, all to one scale."""
    reach = layers.reach(alignments)
    charts: dict[tuple[str, str, str | None], list[LayerAlignment]] = {}
    for item in alignments:
        charts.setdefault((item.target, item.donor, item.adapter_digest), []).append(item)
    shown = [items for items in charts.values() if any(item.layer is not None for item in items)]
    sources = [_compared_source(items[0]) for items in shown]
    return tuple(
        _alignment_figure(items, reach, numbered=sources.count(_compared_source(items[0])) > 1)
        for items in shown
    )


def _compared_source(item: LayerAlignment) -> tuple[str, str, int | None]:
    return item.target, item.donor, item.adapter_rank


def _alignment_figure(alignments: Sequence[LayerAlignment], reach: float, *, numbered: bool) -> Figure:
    """One chart; `numbered`: the digest of the adapter distinguishes it from another of that rank."""
    target, donor, rank = _compared_source(alignments[0])
    digest = (alignments[0].adapter_digest or "")[:8] if numbered else ""
    name, title = f"alignment_{slug(target)}_{slug(donor)}", f"{target} and {donor}"
    if rank is not None:
        name += f"_r{rank}" + (f"_{digest}" if digest else "")
        title += f", with the delta of the adapter of rank {rank}" + (f" ({digest})" if digest else "")
    cosines = [alignment.cosine for alignment in alignments if alignment.layer is not None]
    label = f"Cosine of the deltas of {title} by layer: {min(cosines):+.3f} to {max(cosines):+.3f}"
    return figure(name, title, layers.alignment(alignments, reach), label)
