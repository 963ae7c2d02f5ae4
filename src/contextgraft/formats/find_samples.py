"""Find Parquet files of samples; none is opened."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contextgraft.errors import InputError

COPIES, PAGE, SUMMARY = "samples", "index.html", "summary.json"  # in the folder of a report
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
    paths = sorted((path, path.relative_to(result)) for path in result.rglob("*.parquet"))
    # hidden folders contain the partial results of a running or killed evaluation
    visible = [
        (path, name.as_posix())
        for path, name in paths
        if not any(folder.startswith(".") for folder in name.parts) and not _is_copy(path, name)
    ]
    if not visible:
        raise InputError("contains no *.parquet file", path=result, remedy=REMEDY)
    return visible


def _is_copy(path: Path, name: Path) -> bool:
    """Whether a file is a copy in a report below the given folder; the report's own folder can be given."""
    if len(name.parts) < 3 or name.parts[-2] != COPIES:
        return False
    return all((path.parent.parent / file).is_file() for file in (PAGE, SUMMARY))
