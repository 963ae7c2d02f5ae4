"""Charts of perplexity and of what the weights tell: drawn as figures."""

from collections.abc import Sequence
from itertools import cycle

from contextgraft.report.charts import layers
from contextgraft.report.charts import perplexity as lines
from contextgraft.report.charts.figure import Figure, figure, slug
from contextgraft.report.charts.theme import PALETTE
from contextgraft.report.data.adapter_records import LayerEnergy
from contextgraft.report.data.graft_records import Alignment
from contextgraft.report.data.titles import tune_titles
from contextgraft.report.statistics.cells import Who
from contextgraft.report.statistics.means import Measures
from contextgraft.report.statistics.study_table import FineTune, Row, Study
from contextgraft.report.tables.wording import thousands

SOLID = (1, 0)
REFERENCES = "base", "donor"
COLOURS = ("needle", "skill", "donor", "alone", "theta")


def perplexity(study: Study, measures: Measures) -> tuple[Figure, ...]:
    """A chart for each fine-tune and text at its longest windows; of all models where no fine-tune is."""
    tunes = [(title, _curves_of(study, tune)) for title, tune in tune_titles(study)]
    families = tunes or [("models", _curves_of_all(study))]
    return tuple(
        drawn
        for title, rows in families
        for task, length in _longest(measures, _own([who for _, who, _, _ in rows]))
        if (drawn := _perplexity(title, task, length, rows, measures)) is not None
    )


Named = tuple[str, Who, str, tuple[int, int]]


def _curves_of(study: Study, tune: FineTune) -> list[Named]:
    """The rows of one chart: controls, the graft told of, donor and base; with colour and dashes."""
    shown: list[tuple[Row | None, str, tuple[int, int]]] = [
        (tune.alone, "alone", (1, 3)),
        (tune.theta, "theta", (6, 3)),
        (tune.best, "needle", SOLID),
        (study.donor, "donor", SOLID),
        (study.base, "muted", SOLID),
    ]
    return [(row.label, row.who, colour, dash) for row, colour, dash in shown if row is not None]


def _curves_of_all(study: Study) -> list[Named]:
    """Every model, where none is a fine-tune with its controls."""
    rows = {row.who: row.label for row in study.rows}
    return [
        (label, who, colour, SOLID)
        for (who, label), colour in zip(rows.items(), cycle(COLOURS), strict=False)
    ]


def _own(rows: Sequence[Who]) -> list[Who]:
    """A fine-tune's own rows, without base and donor, which may have been given another text; else all."""
    return [who for who in rows if who.role not in REFERENCES] or list(rows)


def _longest(measures: Measures, rows: Sequence[Who]) -> list[tuple[str, int]]:
    """Each text with its longest windows."""
    return sorted(dict(measures.windows(rows)).items())


def _perplexity(
    title: str, task: str, length: int, rows: Sequence[Named], measures: Measures
) -> Figure | None:
    curves = [
        lines.Curve(label, PALETTE[colour], dash, tuple(measures.curve(who, task, length)))
        for label, who, colour, dash in rows
    ]
    if not any(curve.points for curve in curves):
        return None
    name = f"{title}: {task}, windows of {thousands(length)} tokens"
    label = f"Perplexity by position, {name}: {lines.summary(curves)}"
    return figure(f"perplexity_{slug(title)}_{slug(task)}", name, lines.spec(curves), label)


def energy_by_layer(items: Sequence[LayerEnergy]) -> Figure | None:
    """Energy held by layer and kind of module, a panel for each rank."""
    if not items:
        return None
    ranks = sorted({item.rank for item in items})
    means = {rank: [item.mean for item in items if item.rank == rank] for rank in ranks}
    told = "; ".join(
        f"rank {rank} {100 * min(means[rank]):.0f} to {100 * max(means[rank]):.0f} %" for rank in ranks
    )
    label = f"Energy held by layer and kind of module: {told}"
    return figure("energy_by_layer", "Energy by rank, layer and module", layers.energies(items), label)


def alignment(items: Sequence[Alignment]) -> tuple[Figure, ...]:
    """Cosines by layer, a chart for each fine-tune and donor, all to one scale."""
    reach = layers.reach(items)
    return tuple(
        _alignment([item for item in items if (item.target, item.donor) == pair], reach, *pair)
        for pair in sorted({(item.target, item.donor) for item in items if item.layer is not None})
    )


def _alignment(items: Sequence[Alignment], reach: float, target: str, donor: str) -> Figure:
    cosines = [item.cosine for item in items if item.layer is not None]
    label = (
        f"Cosine of the deltas of {target} and {donor} by layer: {min(cosines):+.3f} to {max(cosines):+.3f}"
    )
    name = f"alignment_{slug(target)}_{slug(donor)}"
    return figure(name, f"{target} and {donor}", layers.alignment(items, reach), label)
