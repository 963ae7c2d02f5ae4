"""The targets of a sheet for people."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contextgraft.planning.target_compatibility import (
    DIFFERS,
    FITS,
    GOOD,
    REFUSED,
    TargetCheck,
    describe_rope,
    describe_vocabulary,
    evidence,
)

NOTE = (
    "Fits: architecture and shapes are the base's, so it may descend from it and can be grafted. Only "
    "weights prove descent: fetch it and `contextgraft inspect MODEL --base BASE`."
)


def show(rows: list[TargetCheck], base: str) -> None:
    """Print one line a target, then what keeps the others out."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("line", "target", "verdict", "RoPE", "vocabulary", "quantised", box=None)
    for row in rows:
        found = row.found
        cells = (
            (describe_rope(found.rope), describe_vocabulary(found.tokens), found.quantised or "no")
            if found
            else ("-", "-", "-")
        )
        table.add_row(str(row.line), *(Text(cell) for cell in (row.name or "?", row.verdict, *cells)))
    console.print(table)
    console.print()
    for row in rows:
        said = [*row.reasons, *(evidence(row.found) if row.found else ())]
        console.print(
            Text(f"{row.name or row.source or 'line'} ({row.line}): {'; '.join(said)}"), soft_wrap=True
        )
    good = sum(row.verdict in GOOD for row in rows)
    counts = ", ".join(
        f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in (*GOOD, DIFFERS, REFUSED)
    )
    console.print()
    console.print(Text(f"{good} of {len(rows)} can be grafted from {base}: {counts}"))
    if any(row.verdict == FITS for row in rows):
        console.print(Text(NOTE), soft_wrap=True)
