"""The tables of an adapter's config from patterns to values, read as PEFT reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from contextgraft.adapter.patterns import PLAIN, LimitedMatcher, is_pattern
from contextgraft.errors import CheckpointError

Number = TypeVar("Number", int, float)

LONGEST_PATTERN = 200  # characters: the longest module names have a hundred
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
            expression = _whole(pattern)
            if PLAIN.fullmatch(pattern):
                matches = re.match(expression, module) is not None
            else:
                matches = self._matcher.matches(rf"\A{expression}", module)
            if matches:
                return value
        return default


def _whole(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"  # as PEFT writes it


def _usable(pattern: str) -> bool:
    if len(pattern) > LONGEST_PATTERN or REPEATED.search(pattern):
        return False
    return (PLAIN.fullmatch(pattern) is not None and "\\" not in pattern) or is_pattern(_whole(pattern))
