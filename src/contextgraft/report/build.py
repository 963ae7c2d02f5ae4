"""From samples, sidecars and alignments to the files of a report, in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contextgraft.checkpoint.input_files import InputFiles, unchanged
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.config.text_file import list_below
from contextgraft.formats.adapter_record import base_context, read_adapter_records
from contextgraft.formats.find_samples import ALIGNMENTS, COPIES, PAGE, SampleFile, find_sample_files
from contextgraft.formats.graft_record import read_graft_records
from contextgraft.formats.model_card.usage import AdapterUsage
from contextgraft.formats.read_alignment import read_alignments
from contextgraft.report import cards, dvc_plots
from contextgraft.report.charts.figures import draw
from contextgraft.report.copies import ParquetCopy, not_copied, read_copies
from contextgraft.report.data.labels import model_names, target_titles
from contextgraft.report.data.lm_eval_results import find_lm_eval_files, read_lm_eval_results
from contextgraft.report.data.lm_eval_samples import find_samples_by_task, read_lm_eval_pairs
from contextgraft.report.data.refusals import summarise_refusals
from contextgraft.report.data.sample_browser import select_samples
from contextgraft.report.data.samples import SampleDatabase, read_samples
from contextgraft.report.page import PageData, SampleOrigin, StudyResults, render
from contextgraft.report.statistics.means import (
    Measurements,
    mean_divergence,
    perplexity_range,
    suite_score,
    unscored,
)
from contextgraft.report.statistics.paired import length_pairs
from contextgraft.report.statistics.rank_matrix import rank_matrix
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.study import build_study
from contextgraft.report.summary import summarise
from contextgraft.report.tables.headline import headline
from contextgraft.report.tables.wording import length_in_words, sentence

STEPS = 6  # how often `build` calls `advance`: samples read, statistics, charts, cards, page, summary
MOST_LINKED = 24  # model cards with a link; the folder has more
NO_NEEDLES = "No needle is among these samples: scores are shown, nothing is judged."


@dataclass(frozen=True)
class Report:
    """A report in memory: files by path below its folder; `lines` are the verdicts for a terminal."""

    texts: dict[str, str]
    summary: dict[str, Any]
    lines: tuple[str, ...]
    pictures: dict[str, bytes] = field(default_factory=dict)
    copies: tuple[ParquetCopy, ...] = ()


def build(
    results: Sequence[Path],
    adapters: Sequence[Path],
    title: str,
    note: str | None,
    *,
    grafts: Sequence[Path] = (),
    alignments: Sequence[Path] = (),
    usages: Mapping[Path, AdapterUsage] = MappingProxyType({}),
    lm_eval: Sequence[Path] = (),
    lm_eval_pairs: Sequence[tuple[Path, Path]] = (),
    log: Callable[[str], object] = str,
    advance: Callable[[int], object] = int,
) -> Report:
    """Read samples, sidecars and alignments and make the report; the same input gives the same bytes.

    `usages` is what the cards of adapters say of their use, by folder; `lm_eval` are files of results of
    lm-evaluation-harness, or folders of them; `lm_eval_pairs` its samples of a fine-tune and of its graft.
    `log` is called with one line once the samples are read, `advance` with 1 after each of STEPS steps.

    InputError if there are no samples, or a file is not of the expected kind; InputChanged if one changes
    while it is read.
    """
    sidecars = (path for folder in (*adapters, *grafts) for path in list_below(folder, SIDECAR))
    samples = find_sample_files(results)
    aligned = [SampleFile(path, path.name) for path in alignments]
    lm_eval_files = find_lm_eval_files(lm_eval)
    by_task = [tuple(map(find_samples_by_task, pair)) for pair in lm_eval_pairs]
    others = [path for path, _ in lm_eval_files]
    others += [path for pair in by_task for files in pair for path in files.values()]
    with unchanged(InputFiles([*(file.path for file in samples), *sidecars, *alignments, *others])):
        weights = WeightRecords(
            read_adapter_records(adapters), read_graft_records(grafts), read_alignments(alignments)
        )
        database = read_samples(results)
        by_document = read_lm_eval_pairs((fine_tune, graft) for fine_tune, graft in by_task)
        harness = read_lm_eval_results(lm_eval_files), by_document
        copies = read_copies(COPIES, samples), read_copies(ALIGNMENTS, aligned)
    log(f"samples of {len(samples)} file(s) were read")
    advance(1)
    origin = _origin(database)
    computed = _results(database, origin, weights)
    advance(1)
    figures = draw(computed.study, computed.lines, computed.measurements, weights)
    pictures = figures.pictures()
    advance(1)
    plots = dvc_plots.files(computed.study, computed.measurements)
    model_cards = cards.files(computed.study, weights, usages)
    advance(1)
    linked = [name for name in plots if name.endswith(".csv")] + sorted(model_cards)[:MOST_LINKED]
    page = PageData(title, note, computed, weights, figures, origin, linked, *harness, *copies)
    text = render(page)
    advance(1)
    summary = summarise(page)
    advance(1)
    return Report(
        texts={
            PAGE: text,
            **figures.files(),
            **plots,
            **model_cards,
            **not_copied(COPIES, samples, copies[0]),
            **not_copied(ALIGNMENTS, aligned, copies[1]),
        },
        summary=summary,
        lines=_lines(page),
        pictures=pictures,
        copies=(*copies[0], *copies[1]),
    )


def measure(database: SampleDatabase) -> Measurements:
    """Perplexities, divergences and other suites of the samples."""
    return Measurements(
        tuple(map(perplexity_range, database.rows("perplexity"))),
        tuple(map(mean_divergence, database.rows("divergence"))),
        tuple(map(unscored, database.rows("unmeasured"))),
        tuple(map(suite_score, database.rows("other_suites"))),
        tuple(map(length_pairs, database.rows("long_skill_pairs"))),
        tuple(map(length_pairs, database.rows("repetition_pairs"))),
    )


def _origin(database: SampleDatabase) -> SampleOrigin:
    labels = database.rows("labels")
    return SampleOrigin(
        labels=labels,
        names=model_names(labels),
        tasks=database.rows("provenance"),
        files=database.rows("files"),
        model_files=database.rows("model_files"),
        refusals=summarise_refusals(database.rows("refused")),
        browser=select_samples(database),
    )


def _results(database: SampleDatabase, origin: SampleOrigin, weights: WeightRecords) -> StudyResults:
    study = build_study(database, origin.names, base_context(weights.adapters))
    return StudyResults(study, rank_matrix(study), measure(database), _headline(study))


def _headline(study: StudyTable) -> str:
    if not study.longest:
        return NO_NEEDLES
    donor = study.donor.long if study.donor else None
    verdicts = [target.verdict for target in study.targets]
    return headline(verdicts, length_in_words(study.longest, study.context), donor)


def _lines(page: PageData) -> tuple[str, ...]:
    """Headline, a verdict for each fine-tune, and the refused models, for a terminal."""
    study = page.results.study
    length = length_in_words(study.longest, study.context) if study.longest else ""
    return (
        page.results.headline,
        *(f"{title}: {sentence(target.verdict, length)}" for title, target in target_titles(study)),
        *(f"{refusal.name}: {refusal.sentence}" for refusal in page.origin.refusals),
    )
