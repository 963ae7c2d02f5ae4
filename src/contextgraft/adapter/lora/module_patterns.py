"""The tables of an adapter's config from patterns to values, read as PEFT reads them."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from contextgraft.adapter.patterns import PLAIN, LimitedMatcher, is_pattern
from contextgraft.errors import CheckpointError

Number = TypeVar("Number", int, float)

LONGEST_PATTERN = 200  # characters: the longest module names have a hundred
MOST_NAMES = 50_000  # patterns of a table, and those of them that are not names
MOST_PATTERNS = 1000
REPEATED = re.compile(r"\)[*+{]")


class ModulePatterns(Generic[Number]):
    """One of PEFT's tables from patterns to values, such as rank_pattern."""

    def __init__(self, key: str, table: Mapping[str, Number], path: Path) -> None:
        self._key = key
        self._table: Mapping[str, Number] = table
        self._path = path
        self._matcher = LimitedMatcher(key, path)

    def check(self) -> None:
        """Raise CheckpointError for what is not a regular expression of both `re` and `regex`."""
        patterns = sum(PLAIN.fullmatch(pattern) is None for pattern in self._table)
        if len(self._table) > MOST_NAMES or patterns > MOST_PATTERNS:
            raise CheckpointError(
                f"has too long a {self._key}", path=self._path,
                expected=f"at most {MOST_NAMES:,} names of modules and {MOST_PATTERNS:,} other patterns",
                received=f"{len(self._table) - patterns:,} and {patterns:,}",
            )  # fmt: skip
        for pattern in self._table:
            if not _usable(pattern):
                raise CheckpointError(
                    f"has a {self._key} that is not used as a pattern",
                    path=self._path,
                    expected=f"at most {LONGEST_PATTERN} characters of regular expression, no group repeated",
                    received=repr(pattern)[:80],
                )

    def value(self, module: str, default: Number) -> Number:
        """The value of the first pattern that matches the end of a module's name, as in PEFT.

        Matches that take longer than some seconds in all raise CheckpointError.
        """
        for pattern, value in self._table.items():
            name = self._names.get(pattern)
            if name is not None and name.match(module):
                return value
            if name is None and self._matcher.matches(rf"\A{_whole(pattern)}", module):
                return value
        return default

    @cached_property
    def _names(self) -> dict[str, re.Pattern[str]]:
        """The patterns that cannot backtrack, compiled."""
        return {pattern: re.compile(_whole(pattern)) for pattern in self._table if PLAIN.fullmatch(pattern)}


def _whole(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"  # as PEFT writes it


def _usable(pattern: str) -> bool:
    if len(pattern) > LONGEST_PATTERN or REPEATED.search(pattern):
        return False
    return (PLAIN.fullmatch(pattern) is not None and "\\" not in pattern) or is_pattern(_whole(pattern))
