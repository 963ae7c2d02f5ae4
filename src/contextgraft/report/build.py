"""From samples and sidecars to the files of a report, in memory; and those files to the disk."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.publish import publish, write_json
from contextgraft.errors import OutputError
from contextgraft.report import adapters as sidecars
from contextgraft.report import samples as source
from contextgraft.report.facts import fact
from contextgraft.report.figures import draw
from contextgraft.report.names import row_names
from contextgraft.report.page import Material, render
from contextgraft.report.study import build as build_study
from contextgraft.report.summary import summarise
from contextgraft.report.titles import tune_titles
from contextgraft.report.words import headline, place, sentence

PAGE = "index.html"
SUMMARY = "summary.json"
CHARTS = "charts"
KEPT = ".gitignore"  # DVC puts it beside what it tracks


@dataclass(frozen=True)
class Report:
    """A report in memory: `texts` by path below its folder; `lines` are the verdicts for a terminal."""

    texts: dict[str, str]
    summary: dict[str, Any]
    lines: tuple[str, ...]


def build(results: Sequence[Path], adapters: Sequence[Path], title: str, note: str | None) -> Report:
    """Read samples and sidecars and make the report; the same input gives the same text.

    InputError where there are no samples, or a file is not what it should be.
    """
    made_of = sidecars.read(adapters)
    energies = sidecars.energies(made_of)
    samples = source.read(results)
    labels = samples.rows("labels")
    names = row_names(labels)
    facts = [fact(row) for row in samples.rows("facts")]
    study = build_study(facts, names, sidecars.base_context(made_of))
    where = place(study.longest, study.context) if study.longest else ""
    said = headline([tune.verdict for tune in study.fine_tunes], where) if where else NO_NEEDLES
    figures = draw(study, energies)
    material = Material(
        title=title,
        note=note,
        headline=said,
        study=study,
        figures=figures,
        energies=energies,
        adapters=made_of,
        labels=labels,
        names=names,
        asked=samples.rows("provenance"),
        files=samples.rows("files"),
        answers=samples.rows("answers"),
    )
    lines = (said, *(f"{title}: {sentence(tune.verdict, where)}" for title, tune in tune_titles(study)))
    return Report({PAGE: render(material), **figures.files()}, summarise(study, said, energies), lines)


NO_NEEDLES = "No needle is among these samples: scores are shown, nothing is judged."


def write(report: Report, out: Path) -> None:
    """Publish a report as a folder; replaces an older report, refuses anything else (OutputError)."""
    refuse_foreign(out)
    with publish(out, replace=True) as work:
        _empty(work)  # what a killed run left
        try:
            for name, text in sorted(report.texts.items()):
                (work / name).parent.mkdir(exist_ok=True)
                (work / name).write_text(text, encoding="utf-8")
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
    chart = len(path.parts) == 2 and path.parts[0] == CHARTS and path.suffix == ".svg"
    return chart or str(path) in {PAGE, SUMMARY, KEPT}


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
