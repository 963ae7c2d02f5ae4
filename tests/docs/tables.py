"""Tables of the documentation, as cells of text."""

import math
import re
from pathlib import Path

Z = 1.959964  # of 95 %
ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def table(text: str, *header: str) -> list[list[str]]:
    """The rows below the one table of a page whose first columns have these titles."""
    start = "\n|" + "|".join(f" {title} " if title else " " for title in header) + "|"
    after = text.partition(start)[2]
    assert after, header
    assert start not in after, header
    lines = (start + after).strip().partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in rows}) == 1, header
    return rows[2:]


def wilson(right: float, n: int) -> tuple[float, float]:
    """Wilson (1927): the interval of a share, in percent."""
    share, scale = right / n, 1 + Z**2 / n
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / scale
    centre = (share + Z**2 / (2 * n)) / scale
    return 100 * (centre - half), 100 * (centre + half)
