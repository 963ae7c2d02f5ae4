"""The suite `needle`: a grid of lengths and depths for each kind of question and each haystack."""

from pathlib import Path

from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.evaluation.suites.base import (
    PlannedPrompts,
    SampleRow,
    Suite,
    SuiteContent,
    required_lengths,
)
from contextgraft.evaluation.suites.needle_grid import read_grid
from contextgraft.prompts.haystack import NEEDLES, SHIPPED_TEXTS
from contextgraft.prompts.needle_kinds import SINGLE

PLANNED_TOKENS = 16  # of a question, and again of its answer: a number and a few words


def build_grids(config: EvaluationConfig) -> SuiteContent:
    """A grid for each kind and haystack."""
    section = config.needles
    lengths = required_lengths("needle", "--lengths", section.lengths)
    return SuiteContent(
        tuple(
            read_grid(
                Path(section.format) if section.format else None,
                lengths=lengths,
                depths=tuple(section.depths),
                samples=section.samples,
                distractors=section.distractors,
                kind=kind,
                count=section.count,
                haystack=haystack,
                values=section.values,
                chat=config.chat,
            )
            for kind in section.kinds
            for haystack in section.haystacks or (None,)
        )
    )


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """A prompt for each depth and sample, once for each kind and haystack.

    If one text holds the needles of all depths, only the question differs. Otherwise the texts of a sample
    agree up to the shallower of two needles: the deepest is read whole, each other from its own depth.
    """
    section = config.needles
    documents = section.samples * len(section.kinds) * max(1, len(section.haystacks))
    one_text = section.distractors >= len(section.depths) - 1
    planned = []
    for length in section.lengths or ():
        question = max(0, length - 2 * PLANNED_TOKENS)
        others = sorted(section.depths)[:-1]
        starts = [question if one_text else round(length * depth / 100) for depth in others]
        whole = (0, length)
        shared = (whole, *((start, length) for start in starts))
        alone = (whole,) * len(section.depths)
        planned.append(PlannedPrompts(length, documents, alone, shared, PLANNED_TOKENS))
    return planned


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """A grid of the row's kind, length and depth; a haystack that is known by name is that of the row."""
    known = row["haystack"] in {NEEDLES, *SHIPPED_TEXTS}
    return config.with_section(
        "needle",
        lengths=[row["length"]],
        depths=[row["depth"] or 0.0],
        samples=1,
        distractors=row["distractors"] or 0,
        kinds=[row["kind"] or SINGLE],
        haystacks=config.needles.haystacks or ([row["haystack"]] if known else []),
    )


SUITE = Suite(build_grids, planned_prompts, narrow)
