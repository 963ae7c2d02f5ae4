"""What happens at each step, from the recipe alone: length, theta, learning rate."""

import math
from dataclasses import dataclass

from contextgraft.config.training import Recipe
from contextgraft.rope.schedule import RULES
from contextgraft.rope.settings import RopeSettings


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number from 0, its stage, and the shape of its batch."""

    number: int
    stage: int
    length: int
    rows: int


def thetas(recipe: Recipe, base: RopeSettings, head_dim: int) -> list[float]:
    """RoPE theta of each stage: given by the stage, or by the recipe's rule from the base's settings."""
    if recipe.theta == "keep":
        ruled: list[float] = [base.theta] * len(recipe.stages)
    else:
        targets = [round(stage.length * recipe.margin) for stage in recipe.stages]
        ruled = [float(x) for x in RULES[recipe.theta](base.theta, base.max_positions, targets, head_dim)]
    return [
        rule if stage.theta is None else stage.theta for stage, rule in zip(recipe.stages, ruled, strict=True)
    ]


def steps(recipe: Recipe) -> list[Step]:
    """All steps in order; the short ones are spread evenly."""
    plan: list[Step] = []
    short = 0
    for index, stage in enumerate(recipe.stages):
        for _ in range(stage.steps):
            number = len(plan)
            length, tokens = stage.length, stage.tokens
            if math.floor((number + 1) * recipe.replay.share) > short:
                length, tokens = (
                    recipe.replay.lengths[short % len(recipe.replay.lengths)],
                    recipe.replay.tokens,
                )
                short += 1
            plan.append(Step(number, index, length, tokens // length))
    return plan


def learning_rate(recipe: Recipe, step: Step, total: int) -> float:
    """Linear warm-up, then cosine from the peak down to its final part, over all stages."""
    optimiser, number = recipe.optimiser, step.number
    peak = recipe.stages[step.stage].learning_rate or optimiser.learning_rate
    warm = min(1.0, (number + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * number / total))
    return peak * warm * (optimiser.final + (1 - optimiser.final) * cosine)
