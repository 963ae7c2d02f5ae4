"""What each suite gives a model to read and to write, and what all of it costs. Pure arithmetic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contextgraft.planning import inference
from contextgraft.planning.inference import Device, Shape

Span = tuple[int, int]

NEEDLE_TOKENS = 16  # of a needle's question, and again of its answer: a number and a few words
RULER_ANSWERS = {  # most tokens a model may write, task by task: tokens_to_generate of NVIDIA/RULER
    "niah_single_1": 128,
    "niah_single_2": 128,
    "niah_single_3": 128,
    "niah_multikey_1": 128,
    "niah_multikey_2": 128,
    "niah_multikey_3": 128,
    "niah_multivalue": 128,
    "niah_multiquery": 128,
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}


@dataclass(frozen=True)
class Grid:
    """What each model is asked: `samples` prompts a length, or a length and depth, as in evaluate."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    distractors: int

    @property
    def one_text(self) -> bool:
        """Whether one text holds the needles of all depths, each the others' distractor."""
        return self.distractors >= len(self.depths) - 1


@dataclass(frozen=True)
class Work:
    """Prompts of one kind, in `documents` alike. A span (start, stop): positions read with those before kept.

    `alone` are the spans of one document when nothing is kept, one a prompt; `shared` are those that are left
    when each prompt keeps what it has in common with the one before. An answer has `answer` tokens.
    """

    documents: int
    alone: tuple[Span, ...]
    shared: tuple[Span, ...]
    answer: int


@dataclass(frozen=True)
class Line:
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


def needle(grid: Grid, length: int) -> list[Work]:
    """A prompt for each depth and sample.

    Where one text holds the needles of all depths, only the question differs. Elsewhere the texts of a sample
    agree up to the shallower of two needles: the deepest is read whole, each other from its own depth.
    """
    others = sorted(grid.depths)[:-1]
    question = max(0, length - 2 * NEEDLE_TOKENS)
    starts = [question if grid.one_text else round(length * depth / 100) for depth in others]
    whole = (0, length)
    shared = (whole, *((start, length) for start in starts))
    return [Work(grid.samples, (whole,) * len(grid.depths), shared, NEEDLE_TOKENS)]


def ruler(grid: Grid, length: int) -> list[Work]:
    """RULER's 13 tasks, each prompt with a text of its own; each may write as much as it is allowed."""
    whole = ((0, length),)
    return [Work(grid.samples, whole, whole, answer) for answer in RULER_ANSWERS.values()]


def reading(grid: Grid, length: int) -> list[Work]:
    """Texts that are read once and not answered: perplexity, divergence."""
    whole = ((0, length),)
    return [Work(grid.samples, whole, whole, 0)]


SUITES: dict[str, Callable[[Grid, int], list[Work]]] = {
    "needle": needle,
    "ruler": ruler,
    "perplexity": reading,
    "divergence": reading,
}


def models(fine_tunes: int, ranks: int) -> int:
    """How many models are asked: base and donor; each fine-tune alone, with theta only, and at each rank."""
    return 2 + fine_tunes * (2 + ranks)


def lines(shape: Shape, device: Device, grid: Grid, suites: Sequence[str], count: int) -> list[Line]:
    """Costs of `count` models of one shape, suite by suite and length by length."""
    return [
        line(shape, device, SUITES[suite](grid, length), suite=suite, length=length, count=count)
        for suite in suites
        for length in grid.lengths
    ]


def line(shape: Shape, device: Device, works: Sequence[Work], *, suite: str, length: int, count: int) -> Line:
    """Costs of one suite's work at one length; where beginnings cannot be shared all is read."""
    works = works if shape.shares else [replace(work, shared=work.alone) for work in works]
    prompts = [work.documents * len(work.alone) for work in works]
    written = [number * work.answer for number, work in zip(prompts, works, strict=True)]
    alone = count * sum(work.documents * flops(shape, work.alone) for work in works)
    shared = count * sum(work.documents * flops(shape, work.shared) for work in works)
    read = count * sum(inference.decode_bytes(shape, length, tokens) for tokens in written)
    return Line(
        suite=suite,
        length=length,
        prompts=count * sum(prompts),
        tokens_alone=count * sum(work.documents * tokens(work.alone) for work in works),
        tokens_shared=count * sum(work.documents * tokens(work.shared) for work in works),
        flops_alone=alone,
        flops_shared=shared,
        tokens_written=count * sum(written),
        bytes_read=read,
        hours_alone=inference.prefill_hours(alone, device),
        hours_shared=inference.prefill_hours(shared, device),
        hours_writing=inference.decode_hours(read, device),
        gpus=inference.gpus(shape, length, device),
    )


def flops(shape: Shape, spans: Sequence[Span]) -> int:
    """Operations to read these spans once."""
    return sum(inference.prefill_flops(shape, start, stop) for start, stop in spans)


def tokens(spans: Sequence[Span]) -> int:
    """Tokens of these spans."""
    return sum(stop - start for start, stop in spans)
