"""The tables of an adapter's config from patterns to values, read as PEFT reads them."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from contextgraft.adapter.patterns import PLAIN, LimitedMatcher, is_pattern
from contextgraft.errors import CheckpointError

Number = TypeVar("Number", int, float)

LONGEST_PATTERN = 200  # characters: the longest module names have a hundred
MOST_NAMES = 50_000  # patterns of a table, and those of them that are not names
MOST_PATTERNS = 1000
NAME = re.compile(r"(?:[\w-]|\\?\.)*")  # without special characters, but dots
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
        names = self._names
        first = len(self._values)
        others: Iterable[tuple[int, str]] = names.others
        if "\n" in module:  # which a dot and `$` treat in their own way
            others = enumerate(self._table)
        else:
            with self._matcher.limited(module):
                first = names.first(module, first)
        for index, pattern in others:
            if index >= first:
                break
            if self._matcher.matches(rf"\A{_whole(pattern)}", module):
                return self._values[index]
        return self._values[first] if first < len(self._values) else default

    @cached_property
    def _values(self) -> list[Number]:
        return list(self._table.values())

    @cached_property
    def _names(self) -> "_NameIndex":
        return _NameIndex(self._table)


class _NameIndex:
    """The patterns of a table in which only dots are special, found without a search through all of them.

    Each has a fixed length, so it matches a name of that length or what follows a dot. `others` are
    the other patterns, with their positions in the table.
    """

    def __init__(self, table: Iterable[str]) -> None:
        # by length and by the positions of dots that match any character: names with these dots, and index
        self._groups: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
        self.others: list[tuple[int, str]] = []
        for index, pattern in enumerate(table):
            if NAME.fullmatch(pattern) is None:
                self.others.append((index, pattern))
                continue
            characters = re.findall(r"\\?.", pattern)
            wild = tuple(place for place, character in enumerate(characters) if character == ".")
            name = "".join(character[-1] for character in characters)
            self._groups.setdefault(len(name), {}).setdefault(wild, {}).setdefault(name, index)

    def first(self, module: str, default: int) -> int:
        """The position in the table of the first pattern that matches a name without line ends."""
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", module))]
        matches = [default]
        for start in starts:
            for wild, names in self._groups.get(len(module) - start, {}).items():
                characters = list(module[start:])
                for place in wild:
                    characters[place] = "."
                matches.append(names.get("".join(characters), default))
        return min(matches)


def _whole(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"  # as PEFT writes it


def _usable(pattern: str) -> bool:
    if len(pattern) > LONGEST_PATTERN or REPEATED.search(pattern):
        return False
    return (PLAIN.fullmatch(pattern) is not None and "\\" not in pattern) or is_pattern(_whole(pattern))
