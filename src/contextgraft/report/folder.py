"""The folder of a report: written whole or not at all; an older report is replaced, anything else is kept."""

import shutil
from pathlib import Path

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.errors import OutputError
from contextgraft.formats.find_samples import COPIES, PAGE, SUMMARY
from contextgraft.report import cards, dvc_plots
from contextgraft.report.build import Report
from contextgraft.report.copies import ALIGNMENTS, SUFFIX

KEPT = ".gitignore"  # DVC writes it next to what it tracks
FOLDERS = {
    "charts": {".svg", ".png"},
    dvc_plots.FOLDER: {".csv", ".json"},
    cards.FOLDER: {".md"},
    COPIES: {SUFFIX},
    ALIGNMENTS: {SUFFIX},
}


def write_report(report: Report, out: Path) -> None:
    """Publish a report as a folder; OutputError if the folder has files that are not a report's."""
    with publish(out, replace=True, check=check_replaceable) as work:
        _empty(work)  # what a killed run left
        try:
            files = {**report.pictures, **{copy.address: copy.data for copy in report.copies}}
            for name in sorted({*report.texts, *files}):
                (work / name).parent.mkdir(exist_ok=True)
            for name, text in report.texts.items():
                (work / name).write_text(text, encoding="utf-8")
            for name, data in files.items():
                (work / name).write_bytes(data)
            write_json(work / SUMMARY, report.summary)
            if (out / KEPT).is_file():
                shutil.copyfile(out / KEPT, work / KEPT)
        except BaseException:
            _empty(work)
            raise


def check_replaceable(out: Path) -> None:
    """Raise OutputError if a folder has files that are not a report's: the folder is replaced as a whole."""
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    foreign = sorted(
        name
        for name in names
        if str(name) not in {PAGE, SUMMARY, KEPT}
        and not (len(name.parts) == 2 and name.suffix in FOLDERS.get(name.parts[0], ()))
    )
    if foreign:
        raise OutputError(
            "contains other files, which the report would replace",
            path=out,
            received=foreign[0],
            remedy="name a folder for the report alone",
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
