"""What commands print on stdout: JSON for programs, lines and tables for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.verbosity import is_quiet
from contextgraft.errors import printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")
LOG_WIDTH = 160  # columns of a table where there is no terminal, so that its rows are not folded


def echo(text: object = "", *, err: bool = False) -> None:
    """Print text of any origin: control characters, which a terminal would obey, are escaped.

    With -q, stderr gets only lines of `contextgraft:` itself, which are warnings and errors.
    """
    if err and is_quiet() and not str(text).startswith("contextgraft: "):
        return
    click.echo(printable_lines(str(text)), err=err)


def print_json(value: Any, *, ensure_ascii: bool = True) -> None:
    """A JSON value with sorted keys, so that the same value gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=ensure_ascii)
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_lines(lines: Iterable[str]) -> None:
    """One line of text for each string."""
    echo("\n".join(lines))


def stdout_console() -> "Console":
    """A rich console that is as wide as the terminal, or LOG_WIDTH columns without one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def make_table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> "Table":
    """A table without borders: columns of `words` aligned left, then columns of `numbers` aligned right.

    Cells are plain text: square brackets are not read as rich's markup.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for name in words:
        table.add_column(Text(printable_lines(name)))
    for name in numbers:
        table.add_column(Text(printable_lines(name)), justify="right")
    for row in rows:
        table.add_row(*(Text(printable_lines(cell)) for cell in row))
    return table


def print_table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print `make_table` on stdout."""
    stdout_console().print(make_table(words, numbers, rows))


def format_bytes(count: float) -> str:
    """A number of bytes in the largest decimal unit up to TB that keeps it at least 1."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_si(count: float, unit: str) -> str:
    """Three significant digits in the prefixed unit that keeps the number below 1,000: `989 TFLOP/s`."""
    power = 0
    while count >= 999.5 and power < len(PREFIXES) - 1:
        count, power = count / 1000, power + 1
    return f"{format_number(count)} {PREFIXES[power]}{unit}"


def format_number(count: float, digits: int = 3) -> str:
    """A number from 0 to some significant digits, whole ones in full; never with an exponent."""
    if 0 < count < 0.001:
        return "<0.001"
    return f"{count:,.0f}" if count >= 10 ** (digits - 1) else f"{count:.{digits}g}"
