"""The tables that `contextgraft evaluate` and `contextgraft replay` print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from contextgraft.cli.output import echo, print_table

if TYPE_CHECKING:
    from contextgraft.evaluation.dry_run import SuitePlan
    from contextgraft.evaluation.replay.replayed_sample import ReplayedSample
    from contextgraft.evaluation.summary import ScoreSummary

WORDS = ("model", "suite", "task", "kind")
NUMBERS = ("length", "n", "score", "95 % interval", "no score")


def print_scores(scores: "Sequence[ScoreSummary]") -> None:
    """Print a table of scores: shares in percent, measurements in nats per token."""
    print_table(WORDS, NUMBERS, [cells(score) for score in scores])


def cells(score: "ScoreSummary") -> list[str]:
    """One row of the table; without an interval if there is no score."""
    formats = {"share": (100.0, ".1f", ""), "nats": (1.0, ".4f", " nats")}
    factor, digits, unit = formats[score.unit]
    mean = "-" if score.mean is None else f"{factor * score.mean:{digits}}{unit}"
    interval = "-"
    if score.low is not None and score.high is not None:
        interval = f"{factor * score.low:{digits}} - {factor * score.high:{digits}}"
    kind = ", ".join(word for word in (score.kind, score.haystack) if word)
    counts = [str(score.length or ""), str(score.n)]
    return [score.model, score.suite, score.task, kind, *counts, mean, interval, str(score.missing or "")]


def print_plans(plans: "Sequence[SuitePlan]") -> None:
    """Print what would be evaluated, with the share of prompt tokens that would be computed."""
    numbers = ("questions or windows", "prompt tokens", "to prefill", "share", "at most to generate")
    print_table(("model", "suite"), numbers, [plan_cells(plan) for plan in plans])


def plan_cells(plan: "SuitePlan") -> list[str]:
    """One row of the plan; `-` where a server or vLLM decides what it reuses."""
    prefilled, share = "-", "-"
    if plan.prefilled is not None:
        prefilled, share = f"{plan.prefilled:,}", f"{100 * plan.prefilled / plan.prompt_tokens:.0f} %"
    counts = [f"{plan.units:,}", f"{plan.prompt_tokens:,}", prefilled, share, f"{plan.generated:,}"]
    return [plan.model, plan.suite, *counts]


def print_replay(replayed: "ReplayedSample", *, show_prompt: bool) -> None:
    """Print the recorded result of one sample and that of now."""
    length = "" if replayed.length is None else f", length {replayed.length}"
    depth = "" if replayed.depth is None else f", depth {replayed.depth:g} %"
    position = "" if replayed.position is None else f", up to position {replayed.position}"
    echo(f"{replayed.model}: {replayed.suite} {replayed.task}{length}{depth}{position}")
    if show_prompt:
        echo(replayed.prompt)
    echo(f"prompt    {replayed.prompt_tokens} tokens")
    if replayed.expected is not None:
        echo(f"expected  {replayed.expected}")
    echo(f"recorded  {result_text(replayed.recorded, replayed.recorded_score, replayed.scoring)}")
    echo(f"now       {result_text(replayed.output, replayed.score, replayed.scoring)}")
    echo("the same" if replayed.agrees else "not the same")


def result_text(output: str | None, score: float | None, scoring: str) -> str:
    """The response with its score, or the measured value."""
    if output is None:
        return f"{scoring} {score if score is None else format(score, '.6f')}"
    return f"{output}  (score {score})"
