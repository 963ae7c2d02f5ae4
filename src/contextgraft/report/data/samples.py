"""The samples of a study in an in-memory DuckDB database."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from contextgraft.errors import InputError
from contextgraft.formats.find_samples import REMEDY, SampleFile, find_sample_files
from contextgraft.formats.sample_files import check_intact, check_sample_file, first_line, stored_schema
from contextgraft.report.data.clean_rows import select_clean
from contextgraft.report.data.poolable import check_grafts, check_prompts


class SampleDatabase:
    """Samples of one study: table `placed` has each with its model's role; queries are in sql/*.sql."""

    def __init__(self, sample_files: Sequence[SampleFile]) -> None:
        """The files are checked: InputError names the first that is not a table of samples.

        InputError, too, for samples that would be pooled, but are of different grafts or sets of prompts.
        """
        self._files = tuple(sample_files)
        self._db = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False, "threads": 1})
        self._load()
        for name in ("models", "placed", "cell_ranks", "pair_macros"):
            self._db.execute(query_text(name))
        check_grafts(self.rows("graft_settings"))
        check_prompts(self.rows("prompt_sets"))

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """The result of sql/<query>.sql as dicts, in the query's own order, with its named parameters."""
        result = self._db.execute(query_text(query), parameters or None)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def _load(self) -> None:
        groups = list(_alike(self._files))
        for file in self._files:
            check_intact(file.path)
        selects = [select_clean("map(?, ?)", "?", names) for names, _ in groups]
        values: list[list[str]] = []
        for _, group in groups:
            paths = [str(file.path) for file in group]
            values += [paths, [file.name for file in group], paths]
        try:
            self._db.execute(f"CREATE TABLE raw AS {' UNION ALL '.join(selects)}", values)
        except duckdb.Error as error:
            raise InputError("cannot read the samples", received=first_line(error), remedy=REMEDY) from None


def _alike(sample_files: Iterable[SampleFile]) -> Iterator[tuple[dict[str, str | None], list[SampleFile]]]:
    """Successive files of the same columns, which one SELECT reads, with the names of their columns.

    One SELECT for each of hundreds of files takes longer to plan, and more memory, than to run.
    """
    checked = [(check_sample_file(file.path), stored_schema(file.path), file) for file in sample_files]
    for (names, _), group in groupby(checked, key=lambda entry: entry[:2]):
        yield names, [file for *_, file in group]


def query_text(name: str) -> str:
    """The text of sql/<name>.sql."""
    return files("contextgraft.report").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def read_samples(results: Iterable[Path]) -> SampleDatabase:
    """Find and load the samples; InputError names the first file that is not a table of samples."""
    return SampleDatabase(find_sample_files(results))
