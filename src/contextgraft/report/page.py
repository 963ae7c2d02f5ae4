"""The page: one HTML file from a template, with style, script and charts inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from contextgraft._version import __version__
from contextgraft.report.charts.figures import Figures, Weights, parts
from contextgraft.report.charts.matrix import heading
from contextgraft.report.charts.theme import HEAT, SHADES, heat
from contextgraft.report.data import provenance
from contextgraft.report.data import sample_browser as drill
from contextgraft.report.data.adapter_records import Adapter, Energy
from contextgraft.report.data.graft_records import Graft
from contextgraft.report.data.links import link
from contextgraft.report.data.names import donor_names, short
from contextgraft.report.data.rejections import Refusal
from contextgraft.report.data.titles import described, reference_titles, tune_titles
from contextgraft.report.statistics.cells import Cell, Who
from contextgraft.report.statistics.means import Measures
from contextgraft.report.statistics.rank_matrix import Line, columns
from contextgraft.report.statistics.study_table import FineTune, Study
from contextgraft.report.statistics.verdict import CAME, POINTS, came, stayed
from contextgraft.report.tables import score_tables, sheets, wording


@dataclass(frozen=True)
class Material:
    """What the page is made of."""

    title: str
    note: str | None
    headline: str
    study: Study
    lines: Sequence[Line]
    measures: Measures
    figures: Figures
    weights: Weights
    adapters: Sequence[Adapter]
    grafts: Sequence[Graft]
    labels: Sequence[Mapping[str, Any]]
    names: Mapping[Who, str]
    asked: Sequence[Mapping[str, Any]]
    files: Sequence[Mapping[str, Any]]
    refused: Sequence[Refusal]
    drill: drill.Drill


@dataclass(frozen=True)
class Badge:
    """One judgement in a word: state is yes, no or unknown."""

    state: str
    text: str


@dataclass(frozen=True)
class Card:
    """The verdict of one fine-tune, to be seen at once."""

    title: str
    condition: str
    badges: tuple[Badge, ...]
    sentence: str
    bars: tuple[tuple[str, Cell], ...]


def render(material: Material) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("contextgraft.report"),
        autoescape=select_autoescape(("j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(link=link)
    environment.filters.update(
        percent=wording.percent,
        between=wording.between,
        between_points=wording.between_points,
        signed=wording.signed,
        spread=wording.spread,
        thousands=wording.thousands,
        short=short,
        figure=wording.figure,
        heat=heat,
        described=described,
        parts=parts,
        unbroken=wording.unbroken,
        heading=heading,
    )
    return environment.get_template("page.html.j2").render(**_context(material)) + "\n"


def _context(material: Material) -> dict[str, Any]:
    study = material.study
    where = wording.place(study.longest, study.context) if study.longest else ""
    return {
        "title": material.title,
        "note": material.note,
        "headline": material.headline,
        "study": study,
        "where": where,
        "beside": {length: wording.against(length, study.context) for length in (study.short, study.longest)},
        "cards": [card(title, tune, where) for title, tune in tune_titles(study)],
        "tunes": tune_titles(study),
        "references": reference_titles(study.references),
        "others": reference_titles(study.others),
        "figures": material.figures,
        "lines": material.lines,
        "ranks": columns(material.lines),
        "places": score_tables.places(study),
        "energy_rows": energy_rows(material.weights.energies),
        "energy_ranks": sorted({item.rank for item in material.weights.energies}),
        "drill": material.drill,
        "samples": drill.as_json(drill.table(material.drill, score_tables.places(study))),
        **_sheets(material),
        "models": provenance.models(material.labels, material.names),
        "donors": donor_names(material.labels),
        "adapters": material.adapters,
        "asked": material.asked,
        "files": material.files,
        "refused": material.refused,
        "versions": provenance.versions(material.asked),
        "seeds": provenance.seeds(material.asked),
        "rules": {"came": wording.percent(CAME), "points": wording.trimmed(POINTS)},
        "heat_colours": HEAT,
        "shades": SHADES,
        "version": __version__,
        "style": _text("style.css"),
        "script": _text("script.js") + _text("samples.js"),
    }


def card(title: str, tune: FineTune, where: str) -> Card:
    """The verdict card of one fine-tune."""
    best = [(tune.best.label, tune.best.long)] if tune.best else []
    return Card(
        title=title,
        condition=described(tune.condition),
        badges=badges(tune),
        sentence=wording.sentence(tune.verdict, where),
        bars=(("alone", tune.alone.long), ("theta only", tune.theta.long), *best),
    )


def badges(tune: FineTune) -> tuple[Badge, ...]:
    """Whether the context came and whether the skill stayed, at the rank the verdict is told of."""
    graft = tune.verdict.graft
    if graft is None:
        return (Badge("unknown", "context not measured"),)
    kept = stayed(graft, tune.verdict.alone)
    skill = {
        True: Badge("yes", "skill stayed"),
        False: Badge("no", "skill lost"),
        None: Badge("unknown", "skill not measured"),
    }
    context = Badge("yes", "context came") if came(graft.needle) else Badge("no", "context did not come")
    return (
        context,
        skill[kept],
        *([Badge("unknown", "not by the adapter")] if tune.verdict.needless else []),
    )


def energy_rows(energies: Sequence[Energy]) -> list[tuple[str, dict[int, Energy]]]:
    """The chart of energies as a table: kind, then its energy by rank."""
    rows: dict[str, dict[int, Energy]] = {}
    for item in energies:
        rows.setdefault(item.kind, {})[item.rank] = item
    return list(rows.items())


def _sheets(material: Material) -> dict[str, list[sheets.Sheet]]:
    """The tables beside the main one."""
    study, measures = material.study, material.measures
    survived = sheets.survived(material.grafts)
    return {
        "kinds": [sheets.of_grid(grid) for grid in score_tables.needle_kinds(study)],
        "ruler": [sheets.of_grid(grid) for grid in score_tables.ruler(study)],
        "effective": sheets.effective(score_tables.effective_lengths(study)),
        "skills": [sheets.of_grid(grid) for grid in score_tables.skills(study)],
        "perplexities": sheets.perplexity(study, measures),
        "divergences": sheets.divergences(study, measures),
        "survived": [survived] if survived else [],
    }


def _text(name: str) -> str:
    return files("contextgraft.report").joinpath("templates", name).read_text(encoding="utf-8")
