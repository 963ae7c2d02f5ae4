"""Find Parquet files of samples; none is opened."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contextgraft.config.text_file import list_below
from contextgraft.errors import InputError

PAGE, SUMMARY = "index.html", "summary.json"  # in the folder of a report
COPIES, ALIGNMENTS = "samples", "alignments"  # its folders with copies of Parquet files
REMEDY = "give the files that `contextgraft evaluate` wrote, or a folder that contains them"


@dataclass(frozen=True)
class SampleFile:
    """One file of samples; `name` is its path relative to the folder that was searched."""

    path: Path
    name: str


def find_sample_files(results: Iterable[Path]) -> tuple[SampleFile, ...]:
    """Every Parquet file given or below a given folder, each once, sorted; InputError if there is none."""
    files: dict[Path, SampleFile] = {}
    for result in results:
        for path, name in _below(result):
            files.setdefault(path.resolve(), SampleFile(path, name))
    return tuple(sorted(files.values(), key=lambda file: (file.name, str(file.path))))


def _below(result: Path) -> list[tuple[Path, str]]:
    if result.is_file():
        return [(result, result.name)]
    if not result.is_dir():
        raise InputError("no such file or folder", path=result, remedy=REMEDY)
    # hidden folders contain the partial results of a running or killed evaluation
    found = ((path, path.relative_to(result)) for path in list_below(result, "*.parquet"))
    visible = [(path, name.as_posix()) for path, name in found if not _is_copy(path, name)]
    if not visible:
        raise InputError("contains no *.parquet file", path=result, remedy=REMEDY)
    return visible


def _is_copy(path: Path, name: Path) -> bool:
    """Whether a file is a copy in a report below the given folder.

    The report's own folder can be given, for its samples.
    """
    folder, report = path.parent.name, path.parent.parent
    if folder not in (COPIES, ALIGNMENTS) or len(name.parts) < (3 if folder == COPIES else 2):
        return False
    return all((report / file).is_file() for file in (PAGE, SUMMARY))
