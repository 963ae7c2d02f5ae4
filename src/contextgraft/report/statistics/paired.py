"""Skills of a graft and of its fine-tune, paired by sample: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.report.statistics.cells import Who, first_metrics, who
from contextgraft.report.statistics.proportion import Difference
from contextgraft.stats import mcnemar, newcombe_paired

CELLS = ("n", "both", "gained", "lost", "neither", "wins", "losses", "ties")


@dataclass(frozen=True)
class Pairs:
    """`n` prompts that both answered, as a fourfold table; `gained` are those that only the graft got right.

    The four cells may be fractions: answers of several donors to one prompt are averaged, and answers may be
    right in part. `wins`, `losses` and `ties` count every pair of every donor.
    """

    n: int = 0
    both: float = 0
    gained: float = 0
    lost: float = 0
    neither: float = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def step(self) -> Difference | None:
        """The graft's share minus the fine-tune's, in points, with Newcombe's paired interval."""
        if not self.n:
            return None
        low, high = newcombe_paired(*(max(cell, 0.0) for cell in self._cells))
        return Difference(100 * (self.gained - self.lost) / self.n, 100 * low, 100 * high)

    @property
    def p_value(self) -> float | None:
        """Exact McNemar: how often chance sets them so far apart; None where a prompt has several pairs."""
        return mcnemar(self.wins, self.losses) if self.n == self.wins + self.losses + self.ties else None

    @property
    def _cells(self) -> tuple[float, float, float, float]:
        return self.both, self.gained, self.lost, self.neither


UNPAIRED = Pairs()


@dataclass(frozen=True)
class Skill:
    """One task and metric of one row of the table."""

    who: Who
    task: str
    scoring: str
    pairs: Pairs


def skill(row: Mapping[str, Any]) -> Skill:
    """One row of sql/pairs.sql."""
    return Skill(who(row), row["task"], row["scoring"], Pairs(**{name: row[name] for name in CELLS}))


def by_row(skills: Iterable[Skill]) -> dict[Who, Pairs]:
    """The pairs of each row, its tasks together, each by its first metric."""
    found = list(skills)
    pooled: dict[Who, Pairs] = {}
    for row in dict.fromkeys(item.who for item in found):
        own = [item for item in found if item.who == row]
        shown = first_metrics((item.task, item.scoring) for item in own)
        pooled[row] = pool(item.pairs for item in own if item.scoring == shown[item.task])
    return pooled


def pool(parts: Iterable[Pairs]) -> Pairs:
    """All pairs of several tasks together."""
    chosen = list(parts)
    return Pairs(**{name: sum(getattr(part, name) for part in chosen) for name in CELLS})
