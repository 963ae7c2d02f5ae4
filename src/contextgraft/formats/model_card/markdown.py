"""Markdown of values that come from files: nothing in them is markup."""

import re
from collections.abc import Iterable, Sequence

from contextgraft.errors import printable

MARKUP = "\\`*_{}[]<>()#+!|~"  # characters with a meaning in Markdown


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown; `header` is its first line."""
    separator = "|" + "---|" * (header.count("|") - 1)
    return "\n".join([header, separator, *(f"| {' | '.join(cells)} |" for cells in rows)])


def escape(value: object) -> str:
    """Text that Markdown shows unchanged on one line: no markup, table cell or link in it."""
    text = printable(" ".join(str(value).split()))
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in text)


def inline_code(value: object) -> str:
    """Text as code in a table cell, at most 200 characters; characters that end code or cell are removed."""
    text = "".join(letter for letter in str(value)[:200] if letter.isprintable() and letter not in "`|")
    return f"`{text}`" if text else ""


def code_block(text: str, language: str = "") -> str:
    """Lines as a block of code, which no run of backticks in them ends."""
    lines = "\n".join("".join(letter for letter in line if letter.isprintable()) for line in text.split("\n"))
    longest = max(map(len, re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{lines}\n{fence}"
