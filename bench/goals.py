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
TINY, TEN, ONE, STUDIES = "tiny", "10 x 0.3 GB", "1 fine-tune", "studies"
PLANNED, RAN = "plan 500 fine-tunes, 4 ranks", "run 20 tiny fine-tunes, 4 ranks"
SWEEP, MERGE_VERIFIED = "evaluate 4 ranks and a control, align, cold", "merge --verify, cold, to disk"
READ_ONE = "read the fine-tune, cold"


@dataclass(frozen=True)
class Goal:
    """`times` x `over` / `under` of one shape, each a work and a field of its cost, within the bounds.

    `plus` is a second work whose field is added to that of `over`.
    """

    text: str
    shape: str
    over: tuple[str, str]
    under: tuple[str, str] | None = None
    times: int = 1
    plus: str | None = None
    most: float | None = None
    least: float | None = None

    def row(self, results: Results) -> str:
        """A row of the table of goals."""
        costs = results.get(self.shape, {})
        value = self._value(costs)
        goal = f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"
        busy = any(work in costs and not costs[work].is_quiet for work in self._works)
        remark = " (next to other programs)" if busy and self.over[1] != "disk" else ""
        return f"| {self.text} | {self.shape} | {goal} | {self._verdict(value)}{remark} |"

    @property
    def _works(self) -> list[str]:
        return [self.over[0], *([self.plus] if self.plus else []), *([self.under[0]] if self.under else [])]

    def _value(self, costs: Mapping[str, Cost]) -> float | None:
        if not costs.keys() >= set(self._works):
            return None
        works = [self.over[0], *([self.plus] if self.plus else [])]
        over = self.times * sum(float(getattr(costs[work], self.over[1])) for work in works)
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
    Goal(
        "one fine-tune, 4 ranks and a control evaluated, one merged and verified: bytes to and from the disk "
        "/ its size",
        ONE,
        (SWEEP, "disk"),
        (READ_ONE, "disk"),
        plus=MERGE_VERIFIED,
        most=5,
    ),
    Goal("dry run of a study of 500 fine-tunes and 4 ranks, s", STUDIES, (PLANNED, "wall"), most=12),
    Goal("study of 20 tiny fine-tunes and 4 ranks, s", STUDIES, (RAN, "wall"), most=150),
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
