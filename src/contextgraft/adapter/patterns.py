"""Regular expressions from a stranger's file, matched within a time limit."""

import math
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from contextgraft.errors import CheckpointError

if TYPE_CHECKING:
    import regex

SECONDS = 5.0  # for all matches of one file; the patterns of real adapters take a millisecond
# `re`, which PEFT uses, and `regex`, which has a time limit, read these differently
AMBIGUOUS = re.compile(r"(?<!\\)\{(?!\d+(,\d*)?\}|,\d+\})|\[:")
COUNTS = re.compile(r"\{(\d*),?(\d*)\}")
MOST_COPIES = 10_000  # of an element that counts repeat: `regex` compiles every copy
LONGEST = 10_000  # characters
PLAIN = re.compile(r"[\w.\\-]*")  # cannot backtrack


def is_pattern(expression: str) -> bool:
    """Whether a text is a regular expression, and the same one to `re` and `regex`."""
    import regex

    if (
        AMBIGUOUS.search(expression) is not None
        or len(expression) > LONGEST
        or _copies(expression) > MOST_COPIES
    ):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # of what a later version reads differently
            re.compile(expression)
            regex.compile(expression)
    except (re.error, regex.error, FutureWarning, OverflowError, RecursionError):
        return False
    return True


def _copies(expression: str) -> float:
    """An upper bound of the copies of an element: the product of all counts, as if each was in the next."""
    return math.prod(max([1.0, *map(float, filter(None, pair))]) for pair in COUNTS.findall(expression))


@dataclass
class LimitedMatcher:
    """Searches for the patterns under one key of a file, for at most `SECONDS` in all."""

    key: str
    path: Path
    seconds_left: float = field(default_factory=lambda: SECONDS)
    _compiled: dict[str, "regex.Pattern[str]"] = field(default_factory=dict)

    def matches(self, expression: str, text: str) -> bool:
        """Whether the expression matches somewhere in a text; CheckpointError if the time is over."""
        import regex

        with self.limited(expression):
            pattern = self._compiled.get(expression)
            if pattern is None:
                pattern = self._compiled[expression] = regex.compile(expression)
            return pattern.search(text, timeout=max(self.seconds_left, 1e-3)) is not None

    @contextmanager
    def limited(self, shown: str) -> Iterator[None]:
        """Subtract the time of the block; CheckpointError, with `shown` in it, if none was left."""
        began = time.monotonic()
        try:
            if self.seconds_left <= 0:
                raise TimeoutError
            yield
        except TimeoutError:
            raise CheckpointError(
                f"has a {self.key} that takes too long to match",
                path=self.path,
                expected=f"all names matched in {SECONDS:g} seconds",
                received=repr(shown)[:80],
                remedy="write the names themselves instead",
            ) from None
        finally:
            self.seconds_left -= time.monotonic() - began
