"""The folder of a report: written whole or not at all; an older report is replaced, anything else is kept."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.digest import file_digest
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, OutputError, raise_read_error
from contextgraft.formats.find_samples import ALIGNMENTS, COPIES, PAGE, SUMMARY
from contextgraft.report import cards, dvc_plots
from contextgraft.report.build import Report
from contextgraft.report.copies import NOT_COPIED

KEPT = ".gitignore"  # DVC writes it next to what it tracks
DIGESTS = "copies.json"  # of the copies of Parquet files, by their paths: other Parquet files are no report's
FOLDERS = {
    "charts": {".svg", ".png"},
    dvc_plots.FOLDER: {".csv", ".json"},
    cards.FOLDER: {".md"},
}
FILES = {PAGE, SUMMARY, KEPT, DIGESTS, *(f"{folder}/{NOT_COPIED}" for folder in (COPIES, ALIGNMENTS))}


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
            digests = {copy.address: file_digest(work / copy.address) for copy in report.copies}
            write_json(work / DIGESTS, digests)
            if (out / KEPT).is_file():
                shutil.copyfile(out / KEPT, work / KEPT)
        except BaseException:
            _empty(work)
            raise


def check_replaceable(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise OutputError if a folder has files that are not a report's: the folder is replaced as a whole.

    Nor may one of `inputs` be in it, were it a copy of an older report: it may be the only one left.
    """
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    digests = _digests(out)
    foreign = sorted(name for name in names if not _is_own(out, name, digests))
    within = [path for path in inputs if path.resolve().is_relative_to(out.resolve())]
    for what, found in (("other files", foreign), ("an input of this command", within)):
        if found:
            raise OutputError(
                f"contains {what}, which the report would replace",
                path=out,
                received=found[0],
                remedy="name a folder for the report alone",
            )


def _digests(out: Path) -> Mapping[str, object]:
    """The digest of each copy of a Parquet file in a report, by its path; none without a report."""
    try:
        return read_json(out / DIGESTS)
    except CheckpointError as error:
        raise_read_error(error, out)
        return {}


def _is_own(out: Path, name: Path, digests: Mapping[str, object]) -> bool:
    """Whether a file of a folder is one that a report has; of Parquet files only copies that it made."""
    if name.as_posix() in digests:
        return file_digest(out / name) == digests[name.as_posix()]
    if len(name.parts) == 2:
        return name.as_posix() in FILES or name.suffix in FOLDERS.get(name.parts[0], ())
    return name.as_posix() in FILES


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
