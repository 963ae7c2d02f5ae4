"""What happens at each optimiser step, from the recipe alone: length, theta, learning rate."""

import math
from dataclasses import dataclass, replace

from contextgraft.config.training import Recipe, Stage
from contextgraft.errors import InputError
from contextgraft.rope.schedule import RULES
from contextgraft.rope.settings import ORIGINAL, RopeSettings


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


def stage_ropes(recipe: Recipe, base: RopeSettings, head_dim: int) -> list[RopeSettings]:
    """RoPE settings of each stage: the base's with its theta and length, or scaled as the stage says."""
    ropes = []
    for number, (theta, stage) in enumerate(
        zip(stage_thetas(recipe, base, head_dim), recipe.stages, strict=True)
    ):
        rope = base.extended(theta, max(stage.context, base.max_positions))
        ropes.append(_scaled(rope, base, stage, number))
    return ropes


def _scaled(rope: RopeSettings, base: RopeSettings, stage: Stage, number: int) -> RopeSettings:
    """The settings with the scaling of a stage, if it has one; the base must not have one of its own."""
    if stage.rope is None:
        return rope
    if base.rope_type != "default" or base.by_layer_type:
        raise InputError(
            f"stages.{number}.rope would replace the base's own scaling",
            expected="a base with RoPE of the type default, the same in all layers",
            received=f"{base.rope_type}{', by layer type' if base.by_layer_type else ''}",
            remedy="remove rope from the stage, which keeps and trains the base's",
        )
    original = stage.rope.original_max_position_embeddings or base.max_positions
    factor = stage.rope.factor or rope.max_positions / original
    if factor < 1 or original * factor < rope.max_positions:
        raise InputError(
            f"stages.{number}.rope does not reach the stage's length, or the base's",
            expected=f"a factor of at least 1, and with it {rope.max_positions} positions or more",
            received=f"{factor:g} x {original}",
        )
    extra = {**base.extra, **stage.rope.parameters(), "factor": factor, ORIGINAL: original}
    return replace(rope, rope_type=stage.rope.rope_type, extra=extra)


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
