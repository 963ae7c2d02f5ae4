"""What happens at each optimiser step, from the recipe alone: length, theta, learning rate."""

import math
from dataclasses import dataclass

from contextgraft.config.training import Recipe
from contextgraft.rope.schedule import RULES
from contextgraft.rope.settings import RopeSettings


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step: its number and stage (both from 0) and the shape of its batch.

    `target_length` is that of the stage if position ids skip.
    """

    number: int
    stage: int
    length: int
    rows: int
    target_length: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens in the batch."""
        return self.length * self.rows


def stage_thetas(recipe: Recipe, base: RopeSettings, head_dim: int) -> list[float]:
    """RoPE theta of each stage: from the stage itself, or by the recipe's rule from the base's settings."""
    if recipe.theta == "keep":
        by_rule: list[float] = [base.theta] * len(recipe.stages)
    else:
        targets = [round(stage.context * recipe.margin) for stage in recipe.stages]
        by_rule = [float(x) for x in RULES[recipe.theta](base.theta, base.max_positions, targets, head_dim)]
    return [
        theta if stage.theta is None else stage.theta
        for stage, theta in zip(recipe.stages, by_rule, strict=True)
    ]


def training_steps(recipe: Recipe) -> list[TrainingStep]:
    """All steps in order; the short ones are spread evenly."""
    steps: list[TrainingStep] = []
    replay, short = recipe.replay, 0
    for index, stage in enumerate(recipe.stages):
        for _ in range(stage.steps):
            number = len(steps)
            length, tokens, target = stage.length, stage.tokens, stage.target_length
            if math.floor((number + 1) * replay.share) > short:
                length, tokens, target = replay.lengths[short % len(replay.lengths)], replay.tokens, None
                short += 1
            steps.append(TrainingStep(number, index, length, tokens // length, target))
    return steps


def learning_rate(recipe: Recipe, step: TrainingStep, total: int) -> float:
    """Linear warm-up, then cosine decay from the peak to its final fraction, over all stages."""
    optimiser, number = recipe.optimiser, step.number
    peak = recipe.stages[step.stage].learning_rate or optimiser.learning_rate
    warm_up = min(1.0, (number + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * number / total))
    return peak * warm_up * (optimiser.final + (1 - optimiser.final) * cosine)
