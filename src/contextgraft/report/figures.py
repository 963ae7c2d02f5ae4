"""All charts of a study: drawn once, as files and as parts of the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.report.adapters import WHOLE, Energy
from contextgraft.report.charts import energy, heatmap, ranks
from contextgraft.report.charts.svg import as_file, inline, render, width
from contextgraft.report.facts import NEEDLE
from contextgraft.report.study import FineTune, Row, Study
from contextgraft.report.titles import reference_titles, tune_titles
from contextgraft.report.words import percent, place


@dataclass(frozen=True)
class Figure:
    """One chart of the page: where its file is, what it is called, its SVG."""

    file: str
    title: str
    svg: str


@dataclass(frozen=True)
class Group:
    """Figures that belong together."""

    title: str
    figures: tuple[Figure, ...]


def parts(figures: Sequence[Figure]) -> list[tuple[str, str]]:
    """Title and SVG of figures that stand beside each other on the page, to one scale."""
    widest = max((width(figure.svg) for figure in figures), default=0)
    return [(figure.title, inline(figure.svg, widest)) for figure in figures]


@dataclass(frozen=True)
class Figures:
    """The charts of the page and those that are files only."""

    ranks: tuple[Figure, ...]
    heatmaps: tuple[Group, ...]
    energy: Figure | None
    overview: Figure | None

    def files(self) -> dict[str, str]:
        """File name and text of every chart."""
        shown = [*self.ranks, *(figure for group in self.heatmaps for figure in group.figures)]
        single = [figure for figure in (self.energy, self.overview) if figure is not None]
        return {figure.file: as_file(figure.svg) for figure in (*shown, *single)}


def draw(study: Study, energies: Sequence[Energy]) -> Figures:
    """Every chart that the samples and sidecars allow."""
    tunes = [(title, tune) for title, tune in tune_titles(study) if tune.grafts]
    shared = ranks.axes([tune for _, tune in tunes])
    specs = [ranks.spec(tune, shared, study.donor, title) for title, tune in tunes]
    return Figures(
        ranks=tuple(_rank_figure(study, title, tune, shared) for title, tune in tunes),
        heatmaps=_heatmaps(study),
        energy=_energy_figure(energies),
        overview=_figure(
            "effect_of_rank",
            "Effect of rank",
            ranks.together(specs, _overview_title(study)),
            _overview_label(study),
        )
        if specs
        else None,
    )


def slug(title: str) -> str:
    """A file name from a title."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", title).strip("_.").lower() or "model"


def _figure(name: str, title: str, spec: dict[str, object], label: str) -> Figure:
    return Figure(f"charts/{name}.svg", title, render(spec, label))


def _rank_figure(study: Study, title: str, tune: FineTune, shared: ranks.Axes) -> Figure:
    label = f"{title}: needles found by rank of the adapter: {_series(tune)}"
    return _figure(f"effect_of_rank_{slug(title)}", title, ranks.spec(tune, shared, study.donor), label)


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
    references = [(title, row) for title, row in reference_titles(study.references)]
    groups = [("Base and donor", references)]
    for title, tune in tune_titles(study):
        rows = [tune.alone, tune.theta, *([tune.best] if tune.best else [])]
        groups.append((title, [(row.label, row) for row in rows]))
    groups.append(("Other models", reference_titles(study.others)))
    drawn = [
        Group(title, tuple(_heatmap(study, title, name, row) for name, row in rows if row.condition))
        for title, rows in groups
    ]
    return tuple(group for group in drawn if group.figures)


def _heatmap(study: Study, group: str, name: str, row: Row) -> Figure:
    assert row.condition is not None, "rows without needles have no heatmap"
    asked = [item for item in study.facts if item.suite == NEEDLE]
    lengths = sorted({item.length for item in asked if item.length is not None})
    depths = sorted({item.depth for item in asked if item.depth is not None})
    grid = heatmap.squares(study.facts, row.who, row.condition, lengths, depths)
    label = f"{group}, {name}: needles found, {heatmap.summary(grid)}"
    return _figure(f"heatmap_{slug(group)}_{slug(name)}", name, heatmap.spec(grid), label)


def _energy_figure(energies: Sequence[Energy]) -> Figure | None:
    if not energies:
        return None
    whole = ", ".join(f"rank {item.rank} {percent(item.mean)}" for item in energies if item.kind == WHOLE)
    return _figure(
        "energy_by_rank", "Energy by rank", energy.spec(energies), f"Energy of the delta held: {whole}"
    )
