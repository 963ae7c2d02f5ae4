"""The samples of a study in an in-memory DuckDB database."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from contextgraft.errors import InputError
from contextgraft.formats.find_samples import REMEDY, SampleFile, find_sample_files
from contextgraft.formats.sample_files import check_pages, check_sample_file, first_line
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
        for name in ("models", "placed"):
            self._db.execute(query_text(name))
        check_grafts(self.rows("graft_settings"))
        check_prompts(self.rows("prompt_sets"))

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The result of sql/<query>.sql as dicts, in the query's own order."""
        result = self._db.execute(query_text(query))
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def _load(self) -> None:
        selects = [select_clean("?", "?", check_sample_file(file.path)) for file in self._files]
        for file in self._files:
            check_pages(file.path)
        values = [value for file in self._files for value in (file.name, str(file.path))]
        try:
            self._db.execute(f"CREATE TABLE raw AS {' UNION ALL '.join(selects)}", values)
        except duckdb.Error as error:
            raise InputError("cannot read the samples", received=first_line(error), remedy=REMEDY) from None


def query_text(name: str) -> str:
    """The text of sql/<name>.sql."""
    return files("contextgraft.report").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def read_samples(results: Iterable[Path]) -> SampleDatabase:
    """Find and load the samples; InputError names the first file that is not a table of samples."""
    return SampleDatabase(find_sample_files(results))
