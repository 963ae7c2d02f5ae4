"""How many tokens each suite makes a model read and write, and what that costs. By arithmetic alone."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from contextgraft.config.evaluation import (
    DivergenceSection,
    EvaluationConfig,
    NeedleSection,
    PerplexitySection,
    RulerSection,
)
from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.evaluation.suites import SUITES
from contextgraft.evaluation.suites.base import PlannedPrompts, TokenSpan
from contextgraft.planning import memory
from contextgraft.planning.flops import prefill_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape


@dataclass(frozen=True)
class PromptGrid:
    """Prompts of one model: `samples` for each length, or for each length and depth, as in `evaluate`."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    distractors: int

    @property
    def one_text(self) -> bool:
        """Whether one text holds the needles of all depths, each a distractor of the others."""
        return self.distractors >= len(self.depths) - 1


@dataclass(frozen=True)
class SuiteCost:
    """Costs of one suite at one length for all models: tokens, operations, bytes, hours of one device."""

    suite: str
    length: int
    prompts: int
    tokens_alone: int
    tokens_shared: int
    flops_alone: int
    flops_shared: int
    tokens_written: int
    bytes_read: int
    hours_alone: float
    hours_shared: float
    hours_writing: float
    gpus: int


def grid_config(grid: PromptGrid, length: int) -> EvaluationConfig:
    """The configuration with the prompts of one length of a grid, in every suite."""
    return EvaluationConfig(
        needle=NeedleSection(
            lengths=[length],
            depths=list(grid.depths),
            samples=grid.samples,
            distractors=grid.distractors,
        ),
        ruler=RulerSection.model_validate(
            {"tasks": RULER_TASKS, "lengths": [length], "samples": grid.samples}
        ),
        perplexity=PerplexitySection(lengths=[length], documents=grid.samples),
        divergence=DivergenceSection(length=length, prompts=grid.samples),
    )


def count_models(fine_tunes: int, ranks: int) -> int:
    """Models of an evaluation: base and donor; each fine-tune alone, with theta only, and at each rank."""
    return 2 + fine_tunes * (2 + ranks)


def suite_costs(
    shape: ModelShape, hardware: Hardware, grid: PromptGrid, suites: Sequence[str], models: int
) -> list[SuiteCost]:
    """Costs of `models` models of one shape, suite by suite and length by length."""
    costs = []
    for suite in suites:
        for length in grid.lengths:
            prompts = SUITES[suite].planned(grid_config(grid, length))
            costs.append(suite_cost(shape, hardware, prompts, suite=suite, models=models))
    return costs


def suite_cost(
    shape: ModelShape,
    hardware: Hardware,
    groups: Sequence[PlannedPrompts],
    *,
    suite: str,
    models: int,
) -> SuiteCost:
    """Costs of one suite's prompts of one length; where prefixes cannot be shared everything is read."""
    (length,) = {group.length for group in groups}
    groups = groups if shape.shares_prefixes else [replace(group, shared=group.alone) for group in groups]
    prompts = [group.documents * len(group.alone) for group in groups]
    written = [number * group.answer for number, group in zip(prompts, groups, strict=True)]
    alone = models * sum(group.documents * _flops(shape, group.alone) for group in groups)
    shared = models * sum(group.documents * _flops(shape, group.shared) for group in groups)
    read = models * sum(memory.decode_bytes(shape, length, tokens) for tokens in written)
    return SuiteCost(
        suite=suite,
        length=length,
        prompts=models * sum(prompts),
        tokens_alone=models * sum(group.documents * _tokens(group.alone) for group in groups),
        tokens_shared=models * sum(group.documents * _tokens(group.shared) for group in groups),
        flops_alone=alone,
        flops_shared=shared,
        tokens_written=models * sum(written),
        bytes_read=read,
        hours_alone=hardware.compute_hours(alone),
        hours_shared=hardware.compute_hours(shared),
        hours_writing=hardware.read_hours(read),
        gpus=memory.fewest_devices(memory.held_bytes(shape, length), hardware),
    )


def study_suite_costs(
    config: EvaluationConfig, shape: ModelShape, hardware: Hardware, models: int, runs: int = 1
) -> Iterator[SuiteCost]:
    """Costs of everything that a study evaluates in so many runs, suite by suite and length by length.

    The reference of a suite reads its texts once in each run; it counts as a model of the study's shape.
    """
    for name in config.selected_suites:
        suite = SUITES[name]
        rows = (name, suite.planned(config), models), (
            f"{name} reference", suite.planned_reference(config), runs,
        )  # fmt: skip
        for title, planned, readers in rows:
            for length in dict.fromkeys(group.length for group in planned):
                groups = [group for group in planned if group.length == length]
                yield suite_cost(shape, hardware, groups, suite=title, models=readers)


def count_references(config: EvaluationConfig) -> int:
    """Reference models that a run loads in addition to its models."""
    return sum(bool(SUITES[name].planned_reference(config)) for name in config.selected_suites)


def describe_model(shape: ModelShape) -> dict[str, Any]:
    """Sizes and bytes of a model as plain JSON values."""
    own = (
        "name",
        "hidden",
        "intermediate",
        "heads",
        "kv_heads",
        "head_dim",
        "vocabulary",
        "windows",
        "dtype",
    )
    derived = ("layers", "width", "tied", "parameters", "active")
    return {name: getattr(shape, name) for name in (*own, *derived)} | {
        "weight_bytes": memory.weight_bytes(shape),
        "kv_bytes_per_token": memory.kv_bytes_per_token(shape),
    }


def to_json(
    shape: ModelShape, hardware: Hardware, grid: PromptGrid, models: int, costs: Sequence[SuiteCost]
) -> dict[str, Any]:
    """Model, device, grid, memory and costs as plain JSON values."""
    return {
        "model": describe_model(shape),
        "models": models,
        "device": {
            "flops": hardware.flops,
            "utilisation": hardware.utilisation,
            "bandwidth": hardware.bandwidth,
            "memory": hardware.memory,
            "usable": memory.FILL,
        },
        "grid": asdict(grid) | {"one_text": grid.one_text},
        "memory": [
            {
                "length": length,
                "kv_bytes": memory.kv_bytes(shape, length),
                "bytes": memory.held_bytes(shape, length),
                "gpus": memory.fewest_devices(memory.held_bytes(shape, length), hardware),
            }
            for length in grid.lengths
        ],
        "costs": [asdict(cost) for cost in costs],
    }


def _flops(shape: ModelShape, spans: Sequence[TokenSpan]) -> int:
    return sum(prefill_flops(shape, start, stop) for start, stop in spans)


def _tokens(spans: Sequence[TokenSpan]) -> int:
    return sum(stop - start for start, stop in spans)
