"""Copies of the Parquet files of a report in its folder: links of the page to them survive a move."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.errors import printable
from contextgraft.formats.find_samples import SampleFile
from contextgraft.report.charts.svg import slug
from contextgraft.report.statistics.cells import ModelKey, model_key

SUFFIX = ".parquet"
NOT_COPIED = "not-copied.txt"  # in place of the copies of a folder
MOST_BYTES = 64_000_000  # of all copies of one kind; a report is put on a web server or into an e-mail


@dataclass(frozen=True)
class ParquetCopy:
    """A file as it was read: its path in the report, the name that the page gives it, its bytes."""

    address: str
    name: str
    data: bytes

    @property
    def link(self) -> tuple[str, str]:
        """Address and text of a link of the page."""
        return self.address, self.name


def read_copies(
    folder: str, files: Sequence[SampleFile], most_bytes: int = MOST_BYTES
) -> tuple[ParquetCopy, ...]:
    """Copies of all files for a subfolder of the report, or none if they have more bytes together."""
    if sum(file.path.stat().st_size for file in files) > most_bytes:
        return ()
    copies: dict[str, ParquetCopy] = {}
    for file in files:
        stem = slug(file.name.removesuffix(SUFFIX))
        number = next(n for n in range(len(files)) if _address(folder, stem, n) not in copies)
        address = _address(folder, stem, number)
        copies[address] = ParquetCopy(address, file.name, file.path.read_bytes())
    return tuple(copies.values())


def not_copied(folder: str, files: Sequence[SampleFile], copies: Sequence[ParquetCopy]) -> dict[str, str]:
    """A text in place of copies that were left out, by path: a workflow finds the folder in either case."""
    if copies or not files:
        return {}
    lines = f"Not copied: more than {MOST_BYTES // 1_000_000} MB together.", *(file.name for file in files)
    return {f"{folder}/{NOT_COPIED}": "\n".join(map(printable, lines)) + "\n"}


def family_links(
    rows: Iterable[Mapping[str, Any]],
    labels: Mapping[ModelKey, tuple[str, str]],
    copies: Sequence[ParquetCopy],
) -> dict[str, list[tuple[str, str]]]:
    """Links to the samples of each family of models, from the rows of sql/model_files.sql."""
    links: dict[str, dict[tuple[str, str], None]] = {}
    by_name = file_links(copies)
    for row in rows:
        family, _ = labels[model_key(row)]
        links.setdefault(family, {}).update(dict.fromkeys(by_name.get(row["file"], ())))
    return {family: list(own) for family, own in links.items()}


def file_links(copies: Iterable[ParquetCopy]) -> dict[str, list[tuple[str, str]]]:
    """Links by the name of a file; files of several given folders may have one name."""
    links: dict[str, list[tuple[str, str]]] = {}
    for copy in copies:
        links.setdefault(copy.name, []).append(copy.link)
    return links


def _address(folder: str, stem: str, number: int) -> str:
    return f"{folder}/{stem}{f'-no{number + 1}' if number else ''}{SUFFIX}"
