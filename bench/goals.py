"""The goals: a figure of ours relative to a peer's, and the bound that it is to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

from measure import Cost

Results = Mapping[str, Mapping[str, Cost]]
EXTRACT, MERGE, MERGE_COLD = "extract, 4 ranks, cold", "merge", "merge, cold, to disk"
READ, COPY, COPY_COLD = "read both models, cold", "cp -r", "cp -r, cold, to disk"
MERGEKIT, PEFT = "mergekit-extract-lora, 1 rank", "PEFT merge_and_unload"
MERGE_TEN, COPY_TEN = (
    "merge of 10 targets by one command, cold, to disk",
    "cp -r of 10 targets, cold, to disk",
)
TINY, TEN = "tiny", "10 x 0.3 GB"


@dataclass(frozen=True)
class Goal:
    """`times` x `over` / `under` of one shape, each a work and a field of its cost, within the bounds."""

    text: str
    shape: str
    over: tuple[str, str]
    under: tuple[str, str] | None = None
    times: int = 1
    most: float | None = None
    least: float | None = None

    def row(self, results: Results) -> str:
        """A row of the table of goals."""
        value = self._value(results)
        goal = f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"
        sides = [results.get(self.shape, {}).get(work) for work, _ in filter(None, (self.over, self.under))]
        busy = any(side is not None and not side.is_quiet for side in sides)
        remark = " (next to other programs)" if busy else ""
        return f"| {self.text} | {self.shape} | {goal} | {self._verdict(value)}{remark} |"

    def _value(self, results: Results) -> float | None:
        costs = results.get(self.shape, {})
        if self.over[0] not in costs or (self.under is not None and self.under[0] not in costs):
            return None
        over = self.times * float(getattr(costs[self.over[0]], self.over[1]))
        return over if self.under is None else over / float(getattr(costs[self.under[0]], self.under[1]))

    def _verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        most, least = self.most or float("inf"), self.least or 0.0
        return f"{value:.2f}: reached" if least <= value <= most else f"{value:.2f}: **not reached**"


def _both(text: str, over: str, under: str, most: Mapping[str, float]) -> list[Goal]:
    """Wall time of ours over the peer's, of several shapes."""
    return [Goal(text, shape, (over, "wall"), (under, "wall"), most=bound) for shape, bound in most.items()]


GOALS = (
    *_both("extract, 4 ranks / reading both models once, cold", EXTRACT, READ, {"1B": 2, "8B": 1.3}),
    Goal(
        "4 x mergekit / extract, 4 ranks, CPU time", "1B", (MERGEKIT, "cpu"), (EXTRACT, "cpu"), 4, least=200
    ),
    *_both("merge / `cp -r`, cold cache, to disk", MERGE_COLD, COPY_COLD, {"1B": 1.1, "8B": 1.1}),
    *_both("merge of 10 targets / `cp -r`, cold cache, to disk", MERGE_TEN, COPY_TEN, {TEN: 1.05}),
    Goal("PEFT / merge", "8B", (PEFT, "wall"), (MERGE, "wall"), least=8),
    Goal("merge of a tiny model, CPU seconds", TINY, (MERGE, "cpu"), most=1.2),
    *(
        Goal(f"{work}, peak anonymous memory, MB", shape, (work, "anonymous"), most=1000)
        for shape in ("1B", "8B")
        for work in (EXTRACT, MERGE)
    ),
)


def goal_table(results: Results) -> list[str]:
    """The goals as a Markdown table."""
    head = ["| goal | shape | wanted | measured |", "|---|---|---|---|"]
    return [*head, *(goal.row(results) for goal in GOALS)]
