"""The page: one HTML file from a template, with style, script, charts and samples inside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from contextgraft._version import __version__
from contextgraft.report.charts.figures import Figures, is_charted
from contextgraft.report.charts.matrix import heading, outcome_colour, outcome_legend
from contextgraft.report.charts.svg import inline_all
from contextgraft.report.charts.theme import HEAT, SHADES, heat
from contextgraft.report.copies import ParquetCopy, family_links, file_links
from contextgraft.report.data import provenance
from contextgraft.report.data.document_pairs import DocumentPairs
from contextgraft.report.data.labels import (
    described,
    donor_names,
    family_labels,
    reference_titles,
    short,
    target_titles,
)
from contextgraft.report.data.lm_eval_results import LmEvalScore
from contextgraft.report.data.refusals import RefusalSummary
from contextgraft.report.data.sample_browser import BrowserSamples, link, sample_table, script_json
from contextgraft.report.statistics.cells import Cell, ModelKey
from contextgraft.report.statistics.effective_length import effective_lengths
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.rank_matrix import MatrixLine, mark, matrix_ranks
from contextgraft.report.statistics.study_table import StudyTable, TargetResult
from contextgraft.report.statistics.verdict import (
    MAX_LOST,
    MIN_FOUND,
    RECOMMENDED_OUTCOMES,
    ControlComparison,
    has_context,
    keeps_skill,
)
from contextgraft.report.statistics.weights import RankEnergy, WeightRecords, energy_by_rank
from contextgraft.report.tables import measurement_tables, score_tables, wording
from contextgraft.report.tables.lm_eval import lm_eval_pair_tables, lm_eval_tables
from contextgraft.report.tables.overview import overview
from contextgraft.report.tables.paired_table import long_skill_tables, repetition_tables

SCRIPTS = ("vendor/sortable.min.js", "templates/script.js", "templates/samples.js")


@dataclass(frozen=True)
class StudyResults:
    """What was computed from the samples: the main table, the matrix, perplexities and the like."""

    study: StudyTable
    lines: Sequence[MatrixLine]
    measurements: Measurements
    headline: str


@dataclass(frozen=True)
class SampleOrigin:
    """The samples themselves and where they come from; labels, tasks and both files are rows of queries."""

    labels: Sequence[Mapping[str, Any]]
    names: Mapping[ModelKey, str]
    tasks: Sequence[Mapping[str, Any]]
    files: Sequence[Mapping[str, Any]]
    model_files: Sequence[Mapping[str, Any]]
    refusals: Sequence[RefusalSummary]
    browser: BrowserSamples


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows.

    `linked` are files next to it that the overview links to, `lm_eval` and `lm_eval_pairs` scores of
    lm-evaluation-harness, `samples` and `alignments` copies of Parquet files, which may be left out.
    """

    title: str
    note: str | None
    results: StudyResults
    weights: WeightRecords
    figures: Figures
    origin: SampleOrigin
    linked: Sequence[str] = ()
    lm_eval: Sequence[LmEvalScore] = ()
    lm_eval_pairs: Sequence[DocumentPairs] = ()
    samples: Sequence[ParquetCopy] = ()
    alignments: Sequence[ParquetCopy] = ()


@dataclass(frozen=True)
class Badge:
    """One judgement in a few words: state is yes, no or unknown."""

    state: str
    text: str


@dataclass(frozen=True)
class VerdictCard:
    """The verdict of one fine-tune, for the top of the page."""

    title: str
    condition: str
    badges: tuple[Badge, ...]
    sentence: str
    bars: tuple[tuple[str, Cell], ...]
    comparisons: tuple[ControlComparison, ...]


def render(page: PageData) -> str:
    """The page as one HTML text that loads no other file."""
    environment = Environment(
        loader=PackageLoader("contextgraft.report"),
        autoescape=select_autoescape(("j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(link=link, mark=mark, samples_of=_samples_of(page), csv=_csv(page))
    environment.filters.update(
        percent=wording.percent,
        between=wording.between,
        between_points=wording.between_points,
        by_text=wording.by_text,
        signed=wording.signed,
        spread=wording.spread,
        thousands=wording.thousands,
        short=short,
        rounded=wording.rounded,
        heat=heat,
        described=described,
        inline_all=inline_all,
        unbroken=wording.unbroken,
        heading=heading,
        outcome_colour=outcome_colour,
    )
    context = {
        **_verdict_context(page),
        **_chart_context(page),
        **_table_context(page),
        **_origin_context(page),
        "version": __version__,
        "style": _text("templates/style.css"),
        "script": "".join(map(_text, SCRIPTS)),
    }
    return environment.get_template("page.html.j2").render(**context) + "\n"


def _verdict_context(page: PageData) -> dict[str, Any]:
    """Headline, verdicts, and the main table."""
    study = page.results.study
    length = wording.length_in_words(study.longest, study.context) if study.longest else ""
    return {
        "title": page.title,
        "note": page.note,
        "headline": page.results.headline,
        "study": study,
        "longest": length,
        "multiples": {
            tokens: wording.relative_to_context(tokens, study.context)
            for tokens in (study.short, study.longest)
        },
        "linked": page.linked,
        "overview": overview(study, page.weights),
        "cards": [verdict_card(title, target, length) for title, target in target_titles(study)],
        "targets": target_titles(study),
        "references": reference_titles(study.references),
        "others": reference_titles(study.others),
        "labels": family_labels(study),
        "rules": {"found": wording.percent(MIN_FOUND), "points": wording.trimmed(MAX_LOST)},
    }


def _chart_context(page: PageData) -> dict[str, Any]:
    energies = energy_by_rank(page.weights.adapters)
    return {
        "figures": page.figures,
        "lines": page.results.lines,
        "ranks": matrix_ranks(page.results.lines),
        "aligned_adapters": any(item.adapter_digest is not None for item in page.weights.alignments),
        "energy_rows": energy_rows(energies),
        "energy_ranks": sorted({energy.rank for energy in energies}),
        "heat_colours": HEAT,
        "outcome_legend": outcome_legend(),
        "charted": is_charted(page.results.study),
        "shades": SHADES,
    }


def _table_context(page: PageData) -> dict[str, Any]:
    """The tables besides the main one."""
    study, measurements = page.results.study, page.results.measurements
    survived = measurement_tables.survival_table(page.weights.grafts)
    return {
        "kinds": score_tables.needle_tables(study),
        "ruler": score_tables.ruler_tables(study),
        "effective": measurement_tables.effective_length_tables(effective_lengths(study)),
        "skills": score_tables.skill_tables(study),
        "long_skills": long_skill_tables(study, measurements),
        "repetitions": repetition_tables(study, measurements),
        "perplexities": measurement_tables.perplexity_tables(study, measurements),
        "divergences": measurement_tables.divergence_tables(study, measurements),
        "lm_eval": lm_eval_tables(page.lm_eval),
        "lm_eval_pairs": lm_eval_pair_tables(page.lm_eval_pairs),
        "other_suites": measurement_tables.other_suite_tables(study, measurements),
        "survived": [survived] if survived else [],
    }


def _origin_context(page: PageData) -> dict[str, Any]:
    """Single samples and provenance."""
    origin = page.origin
    samples = sample_table(origin.browser, family_labels(page.results.study))
    return {
        "browser": origin.browser,
        "samples": script_json(samples),
        "models": provenance.sampled_models(origin.labels, origin.names),
        "donors": donor_names(origin.labels),
        "adapters": page.weights.adapters,
        "tasks": origin.tasks,
        "files": origin.files,
        "copies": file_links(page.samples),
        "alignment_files": [copy.link for copy in page.alignments],
        "refusals": origin.refusals,
        "versions": provenance.versions(origin.tasks),
        "seeds": provenance.seeds(origin.tasks),
    }


def _samples_of(page: PageData) -> Callable[[str], list[tuple[str, str]]]:
    """Links to the samples of a family of models, by its name; none where they were not copied."""
    links = family_links(page.origin.model_files, family_labels(page.results.study), page.samples)
    return lambda family: links.get(family, [])


def _csv(page: PageData) -> Callable[[str], list[tuple[str, str]]]:
    """The link to a table of numbers by its name; none where the study has no such table."""
    tables = {name: (name, PurePath(name).name) for name in page.linked}
    return lambda name: [tables[path] for path in (f"plots/{name}.csv",) if path in tables]


def verdict_card(title: str, target: TargetResult, length: str) -> VerdictCard:
    """The verdict card of one fine-tune."""
    verdict, best = target.verdict, target.best
    return VerdictCard(
        title=title,
        condition=described(target.condition),
        badges=badges(target),
        sentence=wording.sentence(verdict, length, compared=not verdict.comparisons),
        bars=(
            ("alone", verdict.alone.needle),
            ("theta only", verdict.theta.needle),
            *((label, control.needle) for label, control in verdict.controls.items()),
            *([(best.label, verdict.graft.needle)] if best and verdict.graft else []),
        ),
        comparisons=verdict.comparisons,
    )


def badges(target: TargetResult) -> tuple[Badge, ...]:
    """Whether the long context works and whether the skill is kept, at the rank that the verdict names."""
    graft = target.verdict.graft
    if graft is None:
        return (Badge("unknown", "context not measured"),)
    skill = {
        True: Badge("yes", "skill kept"),
        False: Badge("no", "skill lost"),
        None: Badge("unknown", "skill not measured"),
    }
    works = has_context(graft.needle)
    context = Badge("yes", "long context works") if works else Badge("no", "long context fails")
    only_here = target.verdict.outcome in RECOMMENDED_OUTCOMES and not target.verdict.held
    chosen = [Badge("no", "not on the prompts that chose the rank")] if only_here else []
    unneeded = [Badge("unknown", "adapter not needed")] if target.verdict.adapter_unneeded else []
    return context, skill[keeps_skill(graft, target.verdict.alone)], *chosen, *unneeded


def energy_rows(energies: Sequence[RankEnergy]) -> list[tuple[str, dict[int, RankEnergy]]]:
    """The chart of energies as a table: kind of module, then its energy by rank."""
    rows: dict[str, dict[int, RankEnergy]] = {}
    for energy in energies:
        rows.setdefault(energy.kind, {})[energy.rank] = energy
    return list(rows.items())


def _text(name: str) -> str:
    return files("contextgraft.report").joinpath(*name.split("/")).read_text(encoding="utf-8")
