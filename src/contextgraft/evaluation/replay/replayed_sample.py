"""What a sample records beside what was computed again."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from contextgraft.evaluation.suites.base import SampleRow

# A quantity is summed in another order if other prompts are in its batch.
RELATIVE, ABSOLUTE = 1e-3, 1e-6


@dataclass(frozen=True)
class ReplayedSample:
    """What a sample records and what was computed now; `prompt` is the text that the model was given.

    `expected`, `recorded` and `output` are None if nothing was generated, only measured.
    """

    model: str
    suite: str
    task: str
    length: int | None
    depth: float | None
    position: int | None
    prompt_tokens: int
    prompt: str
    scoring: str
    expected: str | None
    recorded: str | None
    recorded_score: float | None
    output: str | None
    score: float

    @property
    def agrees(self) -> bool:
        """Whether both are the same: the same text, and the same score within rounding."""
        if self.recorded_score is None:
            return False
        near = math.isclose(self.score, self.recorded_score, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return near and self.output == self.recorded


def replayed_sample(row: SampleRow, prompt: str, now: Mapping[str, Any]) -> ReplayedSample:
    """A row and what was computed now."""
    return ReplayedSample(
        model=row["model"],
        suite=row["suite"],
        task=row["task"],
        length=row["length"],
        depth=row["depth"],
        position=row["position"],
        prompt_tokens=now["prompt_tokens"],
        prompt=prompt,
        scoring=row["scoring"],
        expected=row["answer"],
        recorded=row["output"],
        recorded_score=row["score"],
        output=now.get("output"),
        score=now["score"],
    )


def as_json(replayed: ReplayedSample) -> dict[str, Any]:
    """A replayed sample as JSON values."""
    return {**asdict(replayed), "agrees": replayed.agrees}
