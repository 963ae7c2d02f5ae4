"""A small study's samples, written by the package's own functions; no model answered them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.responses import ScoredResponse
from contextgraft.evaluation.sample_rows import sample_row
from contextgraft.evaluation.suites.base import scored_row, unscored_row
from contextgraft.formats import samples

LENGTHS = (128, 1024)
DEPTHS = (0.0, 50.0, 100.0)
ORIGIN = {
    "target_name": "style",
    "target_digest": "of style",
    "base_digest": "of base",
    "donor_name": "donor",
    "donor_digest": "of donor",
}
# Of ten samples: needles right at 1024, skill right, and RULER's tasks right at 128 and 1024.
MODELS: Mapping[str, tuple[Mapping[str, Any], int, int, tuple[int, int]]] = {
    "style": ({}, 0, 10, (9, 2)),
    "theta": ({**ORIGIN, "rank": 8, "scale": 0.0}, 3, 9, (9, 5)),
    "r2": ({**ORIGIN, "rank": 2, "scale": 1.0}, 8, 10, (9, 8)),
    "r8": ({**ORIGIN, "rank": 8, "scale": 1.0}, 10, 9, (10, 9)),
    "r16": ({**ORIGIN, "rank": 16, "scale": 1.0}, 10, 10, (7, 10)),
}


def question(suite: str, task: str, index: int, **more: Any) -> Question:
    return Question(
        suite=suite,
        task=task,
        index=index,
        seed=7,
        ids=tuple(range(more.get("length") or 20)),
        answer="17 42",
        budget=2,
        scoring="exact",
        prompt_spec=json.dumps({"index": index}),
        **more,
    )


def questions(needles: int, skill: int, ruler: tuple[int, int]) -> Iterator[tuple[Question, bool]]:
    """Questions and whether the answer is right."""
    for index in range(10):
        for length, right in zip(LENGTHS, (10, needles), strict=True):
            for depth in DEPTHS:
                columns = {"kind": "single", "haystack": "prose", "document": index, "distractors": 2}
                drawn = question("needle", "code", index, length=length, depth=depth, **columns)
                yield drawn, index < right
        for length, right in zip(LENGTHS, ruler, strict=True):
            for task in RULER_TASKS:
                yield question("ruler", task, index, length=length, document=index), index < right
        # the fine-tune and its grafts err on different prompts
        yield question("skill", "polite", index), (index + needles) % 10 < skill


def measured(nats: float) -> Iterator[dict[str, Any]]:
    """Two windows of two ranges, and two prompts."""
    for document in range(2):
        common = {"task": "sea", "document": document, "sample_index": document, "seed": 7, "recipe": "{}"}
        for position in (64, 128):
            window = {"length": 128, "prompt_tokens": 128, "position": position, "tokens": 63}
            row = {**common, **window, "suite": "perplexity", "scoring": "nll"}
            yield scored_row(row, nats + document + position / 64)
        prompt = {"length": 32, "prompt_tokens": 32, "tokens": 32}
        row = {**common, **prompt, "suite": "divergence", "scoring": "kl"}
        yield scored_row(row, nats / 10, 1 - nats / 10)
    yield unscored_row(
        {**common, "suite": "perplexity", "length": 4096}, "truncated", "has no such positions"
    )


def answers(label: str) -> pa.Table:
    graft, needles, skill, ruler = MODELS[label]
    answered = questions(needles, skill, ruler)
    rows = [sample_row(q, ScoredResponse("17 42" if ok else "00 00", float(ok))) for q, ok in answered]
    shared = samples.common(label, f"of {label}", graft)
    return samples.table(shared, [*rows, *measured(nats=1.0 + len(label))])


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `samples/style.parquet`."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "samples").mkdir()
    table = pa.concat_tables([answers(label) for label in MODELS])
    samples.write(table, folder / "samples" / "style.parquet", "a run")
    return folder
