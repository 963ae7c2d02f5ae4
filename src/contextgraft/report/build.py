"""From samples and sidecars to the files of a report, in memory; and those files to the disk."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.errors import OutputError
from contextgraft.report import cards, dvc_plots
from contextgraft.report.charts.figures import Weights, draw
from contextgraft.report.data import adapter_records as sidecars
from contextgraft.report.data import graft_records, sample_browser
from contextgraft.report.data import samples as source
from contextgraft.report.data.names import row_names
from contextgraft.report.data.rejections import refusals
from contextgraft.report.data.samples import Samples
from contextgraft.report.data.titles import tune_titles
from contextgraft.report.page import Material, render
from contextgraft.report.statistics.cells import fact
from contextgraft.report.statistics.means import Measures, divergence, gap, stretch
from contextgraft.report.statistics.paired import by_row, skill
from contextgraft.report.statistics.rank_matrix import matrix
from contextgraft.report.statistics.study_table import Study
from contextgraft.report.statistics.study_table import build as build_study
from contextgraft.report.summary import summarise
from contextgraft.report.tables.wording import headline, place, sentence

PAGE = "index.html"
SUMMARY = "summary.json"
KEPT = ".gitignore"  # DVC puts it beside what it tracks
PARTS = {"charts": {".svg", ".png"}, dvc_plots.FOLDER: {".csv", ".json"}, cards.FOLDER: {".md"}}


@dataclass(frozen=True)
class Report:
    """A report in memory: files by path below its folder; `lines` are the verdicts for a terminal."""

    texts: dict[str, str]
    summary: dict[str, Any]
    lines: tuple[str, ...]
    pictures: dict[str, bytes] = field(default_factory=dict)


def build(
    results: Sequence[Path],
    adapters: Sequence[Path],
    title: str,
    note: str | None,
    *,
    grafts: Sequence[Path] = (),
    alignments: Sequence[Path] = (),
) -> Report:
    """Read samples, sidecars and alignments and make the report; the same input gives the same text.

    InputError where there are no samples, or a file is not what it should be.
    """
    made_of, merged = sidecars.read(adapters), graft_records.grafts(grafts)
    known = Weights(
        sidecars.energies(made_of), sidecars.by_layer(made_of), graft_records.alignments(alignments)
    )
    samples = source.read(results)
    labels = samples.rows("labels")
    names = row_names(labels)
    pairs = by_row(skill(row) for row in samples.rows("pairs"))
    facts = [fact(row) for row in samples.rows("facts")]
    study = build_study(facts, names, sidecars.base_context(made_of), pairs)
    measures = measured(samples)
    lines = matrix(study)
    where = place(study.longest, study.context) if study.longest else ""
    refused = refusals(samples.rows("refused"))
    said = told(study, where) if where else NO_NEEDLES
    figures = draw(study, lines, measures, known)
    material = Material(
        title=title,
        note=note,
        headline=said,
        study=study,
        lines=lines,
        measures=measures,
        figures=figures,
        weights=known,
        adapters=made_of,
        grafts=merged,
        labels=labels,
        names=names,
        asked=samples.rows("provenance"),
        files=samples.rows("files"),
        refused=refused,
        drill=sample_browser.choose(samples.rows("drill")),
    )
    return Report(
        texts={
            PAGE: render(material),
            **figures.files(),
            **dvc_plots.files(study, measures),
            **cards.files(study, merged, made_of),
        },
        summary=summarise(study, said, known.energies, refused),
        lines=(
            said,
            *(f"{title}: {sentence(tune.verdict, where)}" for title, tune in tune_titles(study)),
            *(f"{each.name}: {each.sentence}" for each in refused),
        ),
        pictures=figures.pictures(),
    )


def measured(samples: Samples) -> Measures:
    """Perplexities and divergences of the samples."""
    return Measures(
        tuple(stretch(row) for row in samples.rows("perplexity")),
        tuple(divergence(row) for row in samples.rows("divergence")),
        tuple(gap(row) for row in samples.rows("unmeasured")),
    )


def told(study: Study, where: str) -> str:
    """The headline."""
    donor = study.donor.long if study.donor else None
    return headline([tune.verdict for tune in study.fine_tunes], where, donor)


NO_NEEDLES = "No needle is among these samples: scores are shown, nothing is judged."


def write(report: Report, out: Path) -> None:
    """Publish a report as a folder; replaces an older report, refuses anything else (OutputError)."""
    refuse_foreign(out)
    with publish(out, replace=True) as work:
        _empty(work)  # what a killed run left
        try:
            for name in sorted({*report.texts, *report.pictures}):
                (work / name).parent.mkdir(exist_ok=True)
            for name, text in report.texts.items():
                (work / name).write_text(text, encoding="utf-8")
            for name, picture in report.pictures.items():
                (work / name).write_bytes(picture)
            write_json(work / SUMMARY, report.summary)
            if (out / KEPT).is_file():
                shutil.copyfile(out / KEPT, work / KEPT)
        except BaseException:
            _empty(work)
            raise


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds anything but a report: it would be replaced as a whole."""
    foreign = sorted(path for path in out.rglob("*") if path.is_file() and not _ours(path.relative_to(out)))
    if foreign:
        raise OutputError(
            "holds other files, which a report would replace",
            path=out,
            received=foreign[0].relative_to(out),
            remedy="name a folder of the report's own",
        )


def _ours(path: Path) -> bool:
    part = len(path.parts) == 2 and path.suffix in PARTS.get(path.parts[0], set())
    return part or str(path) in {PAGE, SUMMARY, KEPT}


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
