"""The patterns of an adapter's config: regular expressions of a stranger, matched within a time limit."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import regex

from contextgraft.errors import CheckpointError

Number = TypeVar("Number", int, float)

LONGEST_PATTERN = 200  # characters: the longest module names have a hundred
SECONDS = 5.0  # for all matches of one table; the patterns of real adapters take a millisecond
REPEATED = re.compile(r"\)[*+{]")
# `re`, which PEFT uses, and `regex`, which has a time limit, read these differently
AMBIGUOUS = re.compile(r"(?<!\\)\{(?!\d+(,\d*)?\}|,\d+\})|\[:")
PLAIN = re.compile(r"[\w.\\-]*")  # cannot backtrack


class ModulePatterns(Generic[Number]):
    """One of PEFT's tables from patterns to values, such as rank_pattern."""

    def __init__(self, key: str, table: Mapping[str, Number], path: Path) -> None:
        self._key = key
        self._table: Mapping[str, Number] = table
        self._path = path
        self._seconds_left = SECONDS

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

        Matches that take longer than `SECONDS` in all raise CheckpointError.
        """
        for pattern, value in self._table.items():
            if self._matches(pattern, module):
                return value
        return default

    def _matches(self, pattern: str, module: str) -> bool:
        expression = rf"(.*\.)?({pattern})$"  # as PEFT writes it
        if PLAIN.fullmatch(pattern):
            return re.match(expression, module) is not None
        began = time.monotonic()
        try:
            if self._seconds_left <= 0:
                raise TimeoutError
            return regex.match(expression, module, timeout=self._seconds_left) is not None
        except TimeoutError:
            raise CheckpointError(
                f"has a {self._key} that takes too long to match",
                path=self._path,
                expected=f"all modules matched in {SECONDS:g} seconds",
                received=repr(pattern)[:80],
                remedy="write the names of the modules instead",
            ) from None
        finally:
            self._seconds_left -= time.monotonic() - began


def _usable(pattern: str) -> bool:
    if len(pattern) > LONGEST_PATTERN or REPEATED.search(pattern) or AMBIGUOUS.search(pattern):
        return False
    if PLAIN.fullmatch(pattern) and "\\" not in pattern:
        return True
    try:
        re.compile(rf"(.*\.)?({pattern})$")
        regex.compile(rf"(.*\.)?({pattern})$")
    except (re.error, regex.error, OverflowError, RecursionError):
        return False
    return True
