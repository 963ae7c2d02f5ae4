"""How many tokens each suite makes a model read and write, and what that costs. By arithmetic alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from contextgraft.config.study import Evaluation
from contextgraft.planning import memory
from contextgraft.planning.flops import prefill_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.model_shape import ModelShape
from contextgraft.prompts.ruler.tasks import LIST_TASKS, NEEDLE_TASKS, QA_TASKS

TokenSpan = tuple[int, int]

NEEDLE_TOKENS = 16  # of a needle's question, and again of its answer: a number and a few words
RULER_ANSWERS = {  # most tokens of an answer, by task
    **{task: spec.budget for task, spec in NEEDLE_TASKS.items()},
    **{task: budget for task, (_, _, budget) in LIST_TASKS.items()},
    **QA_TASKS,
}


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
class PromptGroup:
    """Prompts of `documents` texts. A span (start, stop) reads these positions with those before cached.

    `alone` are the spans of the prompts of one text when nothing is shared, `shared` those that are left when
    a prompt reuses the prefix that it has in common with the one before. An answer has `answer` tokens.
    """

    documents: int
    alone: tuple[TokenSpan, ...]
    shared: tuple[TokenSpan, ...]
    answer: int


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


def needle(grid: PromptGrid, length: int) -> list[PromptGroup]:
    """A prompt for each depth and sample.

    Where one text holds the needles of all depths, only the question differs. Elsewhere the texts of a sample
    agree up to the shallower of two needles: the deepest is read whole, each other from its own depth.
    """
    others = sorted(grid.depths)[:-1]
    question = max(0, length - 2 * NEEDLE_TOKENS)
    starts = [question if grid.one_text else round(length * depth / 100) for depth in others]
    whole = (0, length)
    shared = (whole, *((start, length) for start in starts))
    return [PromptGroup(grid.samples, (whole,) * len(grid.depths), shared, NEEDLE_TOKENS)]


def ruler(grid: PromptGrid, length: int, tasks: Sequence[str] = tuple(RULER_ANSWERS)) -> list[PromptGroup]:
    """RULER's tasks, each prompt with a text of its own; each answer is as long as the task allows."""
    whole = ((0, length),)
    return [PromptGroup(grid.samples, whole, whole, RULER_ANSWERS[task]) for task in tasks]


def text(grid: PromptGrid, length: int) -> list[PromptGroup]:
    """Texts that are read once and not answered: perplexity, divergence."""
    whole = ((0, length),)
    return [PromptGroup(grid.samples, whole, whole, 0)]


SUITES: dict[str, Callable[[PromptGrid, int], list[PromptGroup]]] = {
    "needle": needle,
    "ruler": ruler,
    "perplexity": text,
    "divergence": text,
}


def count_models(fine_tunes: int, ranks: int) -> int:
    """Models of an evaluation: base and donor; each fine-tune alone, with theta only, and at each rank."""
    return 2 + fine_tunes * (2 + ranks)


def suite_costs(
    shape: ModelShape, hardware: Hardware, grid: PromptGrid, suites: Sequence[str], models: int
) -> list[SuiteCost]:
    """Costs of `models` models of one shape, suite by suite and length by length."""
    return [
        suite_cost(shape, hardware, SUITES[suite](grid, length), suite=suite, length=length, models=models)
        for suite in suites
        for length in grid.lengths
    ]


def suite_cost(
    shape: ModelShape,
    hardware: Hardware,
    groups: Sequence[PromptGroup],
    *,
    suite: str,
    length: int,
    models: int,
) -> SuiteCost:
    """Costs of one suite at one length; where prefixes cannot be shared everything is read."""
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
    evaluation: Evaluation, shape: ModelShape, hardware: Hardware, models: int
) -> Iterator[SuiteCost]:
    """Costs of everything that a study evaluates; skills, whose prompts are short, are not counted."""
    needles = evaluation.needle
    grid = PromptGrid(tuple(needles.lengths), tuple(needles.depths), needles.samples, needles.distractors)
    grids = len(needles.kinds) * max(1, len(needles.haystacks))
    yield from suite_costs(shape, hardware, grid, ["needle"], models * grids)
    if evaluation.ruler:
        tasks = PromptGrid(tuple(evaluation.ruler.lengths), (), evaluation.ruler.samples, 0)
        for length in tasks.lengths:
            groups = ruler(tasks, length, evaluation.ruler.asked)
            yield suite_cost(shape, hardware, groups, suite="ruler", length=length, models=models)
    if evaluation.perplexity:
        texts = PromptGrid(tuple(evaluation.perplexity.lengths), (), evaluation.perplexity.documents, 0)
        yield from suite_costs(shape, hardware, texts, ["perplexity"], models)
    if evaluation.divergence:
        texts = PromptGrid((evaluation.divergence.length,), (), evaluation.divergence.prompts, 0)
        yield from suite_costs(shape, hardware, texts, ["divergence"], models)


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
