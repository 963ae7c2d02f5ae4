"""What each suite makes a model read: counted by hand, and halved by sharing."""

from collections import Counter
from typing import Any

import pytest

from contextgraft.config.evaluation import StudyEvaluation
from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.evaluation.suites import SUITES
from contextgraft.evaluation.suites.needle import PLANNED_TOKENS
from contextgraft.evaluation.suites.ruler import ANSWER_TOKENS
from contextgraft.planning import evaluation
from contextgraft.planning.evaluation import PromptGrid, SuiteCost
from contextgraft.planning.flops import prefill_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape

from .shapes import made_up

SHAPE = made_up("toy", None, None)
WINDOWED = made_up("windowed", None, 16)
DEVICE = Hardware(flops=1e12, utilisation=0.5, bandwidth=1e9, memory=1e9)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)


def one(suite: str, grid: PromptGrid, shape: ModelShape = SHAPE, models: int = 1) -> SuiteCost:
    (cost,) = evaluation.suite_costs(shape, DEVICE, grid, [suite], models)
    return cost


def grid(distractors: int, depths: tuple[float, ...] = DEPTHS, length: int = 1000) -> PromptGrid:
    return PromptGrid((length,), depths, 3, distractors)


def test_one_text_for_all_depths_is_read_once() -> None:
    cost = one("needle", grid(4))
    assert (cost.prompts, cost.tokens_alone) == (15, 15 * 1000)
    assert cost.tokens_shared == 3 * (1000 + 4 * 2 * PLANNED_TOKENS)
    assert cost.flops_shared < 0.5 * cost.flops_alone
    assert cost.tokens_written == 15 * PLANNED_TOKENS


def test_texts_that_differ_from_the_needle_on_share_what_is_before_it() -> None:
    cost = one("needle", grid(3))
    assert cost.tokens_shared == 3 * (1000 + 1000 + 750 + 500 + 250)
    assert one("needle", grid(4)).flops_shared < cost.flops_shared < cost.flops_alone


def test_the_order_of_depths_does_not_matter() -> None:
    assert one("needle", grid(0, DEPTHS[::-1])) == one("needle", grid(0))


def test_a_single_depth_shares_nothing() -> None:
    cost = one("needle", grid(0, (50.0,)))
    assert (cost.tokens_shared, cost.flops_shared) == (cost.tokens_alone, cost.flops_alone)


def test_texts_shorter_than_a_question_are_no_negative_work() -> None:
    cost = one("needle", grid(4, length=5))
    assert 0 < cost.tokens_shared <= cost.tokens_alone


def test_layers_that_forget_cannot_share() -> None:
    cost = one("needle", grid(4), WINDOWED)
    assert cost.tokens_shared == cost.tokens_alone


def test_ruler_has_thirteen_tasks() -> None:
    cost = one("ruler", grid(0))
    assert (cost.prompts, cost.tokens_alone) == (13 * 3, 13 * 3 * 1000)
    assert cost.tokens_written == 3 * (8 * 128 + 30 + 120 + 50 + 32 + 32)


@pytest.mark.parametrize("suite", ["perplexity", "divergence"])
def test_reading_writes_nothing(suite: str) -> None:
    cost = one(suite, grid(0))
    assert (cost.prompts, cost.tokens_written, cost.bytes_read, cost.hours_writing) == (3, 0, 0, 0)
    assert cost.flops_alone == cost.flops_shared == 3 * prefill_flops(SHAPE, 0, 1000)


@pytest.mark.parametrize("suite", [name for name in SUITES if name != "skill"])
def test_models_multiply(suite: str) -> None:
    single, many = one(suite, grid(4)), one(suite, grid(4), models=7)
    for name in ("prompts", "tokens_alone", "tokens_shared", "flops_alone", "flops_shared", "bytes_read"):
        assert getattr(many, name) == 7 * getattr(single, name)
    assert many.gpus == single.gpus


def test_models_of_a_study() -> None:
    assert evaluation.count_models(fine_tunes=1, ranks=0) == 4  # base, donor; alone, theta only
    assert evaluation.count_models(fine_tunes=3, ranks=2) == 2 + 3 * 4


def test_every_task_of_ruler_has_an_answer_length() -> None:
    assert set(ANSWER_TOKENS) == set(RULER_TASKS)


def test_prompts_of_every_suite_of_a_study_are_counted() -> None:
    needle = {"format": "x.yaml", "lengths": [64, 128], "depths": [0, 50, 100], "samples": 2, "seed": 1}
    studied = {
        "needle": needle,
        "skill": {"samples": 5},
        "ruler": {"lengths": [128], "samples": 10, "tasks": ["vt", "cwe"]},
        "perplexity": {"lengths": [256], "documents": 3},
        "divergence": {"length": 32, "prompts": 7},
    }
    assert counted(studied) == {64: 6, 128: 6 + 20, 256: 3, 32: 7}
    assert counted({"needle": needle, "skill": {"samples": 5}}) == {64: 6, 128: 6}
    twice = needle | {"kinds": ["single", "chain"], "haystacks": ["prose", "noise", "code"]}
    assert counted({"needle": twice, "skill": {"samples": 5}}) == {64: 36, 128: 36}


def counted(section: dict[str, Any]) -> dict[int, int]:
    """Prompts by length that one model of a study is given."""
    found: Counter[int] = Counter()
    for cost in evaluation.study_suite_costs(StudyEvaluation.model_validate(section), SHAPE, DEVICE, 1):
        found[cost.length] += cost.prompts
    return dict(found)


def test_the_reference_reads_windows_whole_and_in_short_contexts_once_a_run() -> None:
    """A window of 64 tokens in contexts of 16, whose ends are 4 apart: 12 of them."""
    windows = {"lengths": [64], "documents": 3, "short": 16, "reference": "donor"}
    needle = {"format": "x.yaml", "lengths": [32], "depths": [50], "samples": 1, "seed": 1}
    section = {"needle": needle, "skill": {"samples": 1}, "long_perplexity": windows}
    config = StudyEvaluation.model_validate(section)
    costs = evaluation.study_suite_costs(config, SHAPE, DEVICE, models=7, runs=5)
    reference = {cost.suite: cost for cost in costs}["long_perplexity reference"]
    assert reference.prompts == 5 * 3 * 13
    assert reference.tokens_shared == reference.tokens_alone == 5 * 3 * (64 + 12 * 16)
    assert reference.flops_shared == 15 * (prefill_flops(SHAPE, 0, 64) + 12 * prefill_flops(SHAPE, 0, 16))
    assert evaluation.count_references(config) == 1
    assert evaluation.count_references(config.model_copy(update={"long_perplexity": None})) == 0
