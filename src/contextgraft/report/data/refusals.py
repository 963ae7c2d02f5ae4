"""Models that could not be evaluated, and why: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RefusalSummary:
    """A refused model, the step that refused it, the reason, and how many models made of it are affected."""

    name: str
    verb: str
    reason: str
    others: int

    @property
    def sentence(self) -> str:
        """`refused by fetch: ...`, with the number of other models affected."""
        more = f" (and {self.others} made of it)" if self.others else ""
        return f"refused by {self.verb}: {self.reason}{more}"


def summarise_refusals(rows: Iterable[Mapping[str, Any]]) -> tuple[RefusalSummary, ...]:
    """From the rows of sql/refused.sql."""
    return tuple(
        RefusalSummary(
            # a graft's label is longer than that of its fine-tune
            min(row["models"], key=lambda label: (len(label), label)),
            str(row["verb"]),
            str(row["reason"] or ""),
            len(row["models"]) - 1,
        )
        for row in rows
    )
