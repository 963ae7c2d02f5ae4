"""Models that could not be asked, and why: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """One reason: the step that gave it, the model it was said of, how many others it was passed on to."""

    name: str
    verb: str
    reason: str
    others: int

    @property
    def sentence(self) -> str:
        """`refused by fetch: ...`, and what else went with it."""
        more = f" (and {self.others} made of it)" if self.others else ""
        return f"refused by {self.verb}: {self.reason}{more}"


def refusals(rows: Iterable[Mapping[str, Any]]) -> tuple[Refusal, ...]:
    """From the rows of sql/refused.sql."""
    return tuple(
        Refusal(
            min(
                row["models"], key=lambda model: (len(model), model)
            ),  # a graft's label is longer than its own
            str(row["verb"]),
            str(row["reason"] or ""),
            len(row["models"]) - 1,
        )
        for row in rows
    )
