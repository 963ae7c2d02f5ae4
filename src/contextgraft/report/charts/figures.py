"""All charts of a study: drawn once, as files and as parts of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contextgraft.report.charts import energy, heatmap, ranks, weight_figures
from contextgraft.report.charts import matrix as picture
from contextgraft.report.charts.figure import Figure, figure, slug
from contextgraft.report.charts.svg import as_file, as_picture, inline, width
from contextgraft.report.data.adapter_records import WHOLE, Energy, LayerEnergy
from contextgraft.report.data.graft_records import Alignment
from contextgraft.report.data.titles import reference_titles, tune_titles
from contextgraft.report.statistics.cells import NEEDLE, Who, singles
from contextgraft.report.statistics.means import Measures
from contextgraft.report.statistics.rank_matrix import Line
from contextgraft.report.statistics.study_table import FineTune, Row, Study
from contextgraft.report.tables.score_tables import OTHERS, REFERENCES, of_condition, places
from contextgraft.report.tables.wording import percent, place


@dataclass(frozen=True)
class Group:
    """Figures that belong together."""

    title: str
    figures: tuple[Figure, ...]


def parts(figures: Sequence[Figure]) -> list[tuple[str, str]]:
    """Title and SVG of figures that stand beside each other on the page, to one scale."""
    widest = max((width(each.svg) for each in figures), default=0)
    return [(each.title, inline(each.svg, widest)) for each in figures]


@dataclass(frozen=True)
class Figures:
    """The charts of the page and those that are files only."""

    ranks: tuple[Figure, ...]
    heatmaps: tuple[Group, ...]
    perplexity: tuple[Figure, ...]
    energy: Figure | None
    energy_by_layer: Figure | None
    alignment: tuple[Figure, ...]
    overview: Figure | None
    matrix: Figure | None

    @property
    def all(self) -> list[Figure]:
        """Every chart."""
        shown = [*self.ranks, *(each for group in self.heatmaps for each in group.figures)]
        shown += [*self.perplexity, *self.alignment]
        single = (self.energy, self.energy_by_layer, self.overview, self.matrix)
        return [*shown, *(each for each in single if each is not None)]

    def files(self) -> dict[str, str]:
        """File name and text of every chart."""
        return {f"charts/{each.name}.svg": as_file(each.svg) for each in self.all}

    def pictures(self) -> dict[str, bytes]:
        """File name and bytes of every chart as PNG."""
        return {f"charts/{each.name}.png": as_picture(each.svg) for each in self.all}


@dataclass(frozen=True)
class Weights:
    """What is known of the weights: energies of adapters, alignments of deltas."""

    energies: Sequence[Energy] = ()
    layers: Sequence[LayerEnergy] = ()
    alignments: Sequence[Alignment] = ()


def draw(study: Study, lines: Sequence[Line], measures: Measures, weights: Weights) -> Figures:
    """Every chart that the samples and sidecars allow."""
    tunes = [(title, tune) for title, tune in tune_titles(study) if tune.grafts]
    shared = ranks.axes([tune for _, tune in tunes])
    specs = [ranks.spec(tune, shared, study.donor, title) for title, tune in tunes]
    return Figures(
        ranks=tuple(_rank_figure(study, title, tune, shared) for title, tune in tunes),
        heatmaps=_heatmaps(study),
        perplexity=weight_figures.perplexity(study, measures),
        energy=_energy_figure(weights.energies),
        energy_by_layer=weight_figures.energy_by_layer(weights.layers),
        alignment=weight_figures.alignment(weights.alignments),
        matrix=_matrix_figure(study, lines),
        overview=figure(
            "effect_of_rank",
            "Effect of rank",
            ranks.together(specs, _overview_title(study)),
            _overview_label(study),
        )
        if specs
        else None,
    )


def _rank_figure(study: Study, title: str, tune: FineTune, shared: ranks.Axes) -> Figure:
    label = f"{title}: needles found by rank of the adapter: {_series(tune)}"
    return figure(f"effect_of_rank_{slug(title)}", title, ranks.spec(tune, shared, study.donor), label)


def _series(tune: FineTune) -> str:
    shown = [(row.who.rank, row.long.tally.score) for row in tune.grafts]
    return (
        ", ".join(f"rank {rank} {percent(score)}" for rank, score in shown if score is not None)
        or "not measured"
    )


def _overview_title(study: Study) -> str:
    return f"Needles found at {place(study.longest, study.context)}, and skill kept, by rank of the adapter"


def _overview_label(study: Study) -> str:
    return (
        "Effect of rank. "
        + ". ".join(f"{title}: {_series(tune)}" for title, tune in tune_titles(study))
        + "."
    )


def _heatmaps(study: Study) -> tuple[Group, ...]:
    groups = [(REFERENCES, reference_titles(study.references))]
    for title, tune in tune_titles(study):
        rows = [tune.alone, tune.theta, *([tune.best] if tune.best else [])]
        groups.append((title, [(row.label, row) for row in rows]))
    groups.append((OTHERS, reference_titles(study.others)))
    found = places(study)
    drawn = [
        Group(title, tuple(_heatmap(study, found, title, name, row) for name, row in rows if row.condition))
        for title, rows in groups
    ]
    return tuple(group for group in drawn if group.figures)


def _heatmap(study: Study, found: Mapping[Who, tuple[str, str]], group: str, name: str, row: Row) -> Figure:
    """One row's needles; `found` has its group and label among the samples, to which the squares lead."""
    assert row.condition is not None, "rows without needles have no heatmap"
    asked = singles(study.facts)
    lengths = sorted({item.length for item in asked if item.length is not None})
    depths = sorted({item.depth for item in asked if item.depth is not None})
    tune, label = found[row.who]
    chosen = {"tune": tune, "row": label, "suite": NEEDLE, **of_condition(row.condition)}
    grid = heatmap.squares(study.facts, (row.who, row.condition), lengths, depths, chosen)
    told = f"{group}, {name}: needles found, {heatmap.summary(grid)}"
    return figure(f"heatmap_{slug(group)}_{slug(name)}", name, heatmap.spec(grid), told)


def _energy_figure(energies: Sequence[Energy]) -> Figure | None:
    if not energies:
        return None
    whole = ", ".join(f"rank {item.rank} {percent(item.mean)}" for item in energies if item.kind == WHOLE)
    return figure(
        "energy_by_rank", "Energy by rank", energy.spec(energies), f"Energy of the delta held: {whole}"
    )


def _matrix_figure(study: Study, lines: Sequence[Line]) -> Figure | None:
    if not lines:
        return None
    title = "Context gained and skill kept, by fine-tune and rank"
    where = place(study.longest, study.context)
    label = f"Needles found at {where} above the fine-tune alone: {picture.summary(lines)}."
    return figure("matrix", title, picture.spec(lines, title), label)
