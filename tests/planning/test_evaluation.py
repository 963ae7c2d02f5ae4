"""What each suite makes a model read: counted by hand, and halved by sharing."""

import pytest

from contextgraft.planning import evaluation, inference
from contextgraft.planning.evaluation import Grid, Line
from contextgraft.planning.inference import Device, Shape

SHAPE = Shape("toy", 1000, 1000, 8, 2, 4, (None, None), "bfloat16")
WINDOWED = Shape("windowed", 1000, 1000, 8, 2, 4, (None, 16), "bfloat16")
DEVICE = Device(1e12, 0.5, 1e9, 1e9)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)


def one(suite: str, grid: Grid, shape: Shape = SHAPE, count: int = 1) -> Line:
    (line,) = evaluation.lines(shape, DEVICE, grid, [suite], count)
    return line


def grid(distractors: int, depths: tuple[float, ...] = DEPTHS, length: int = 1000) -> Grid:
    return Grid((length,), depths, 3, distractors)


def test_one_text_for_all_depths_is_read_once() -> None:
    line = one("needle", grid(4))
    assert (line.prompts, line.tokens_alone) == (15, 15 * 1000)
    assert line.tokens_shared == 3 * (1000 + 4 * 2 * evaluation.NEEDLE_TOKENS)
    assert line.flops_shared < 0.5 * line.flops_alone
    assert line.tokens_written == 15 * evaluation.NEEDLE_TOKENS


def test_texts_that_differ_from_the_needle_on_share_what_is_before_it() -> None:
    line = one("needle", grid(3))
    assert line.tokens_shared == 3 * (1000 + 1000 + 750 + 500 + 250)
    assert one("needle", grid(4)).flops_shared < line.flops_shared < line.flops_alone


def test_the_order_of_depths_does_not_matter() -> None:
    assert one("needle", grid(0, DEPTHS[::-1])) == one("needle", grid(0))


def test_a_single_depth_shares_nothing() -> None:
    line = one("needle", grid(0, (50.0,)))
    assert (line.tokens_shared, line.flops_shared) == (line.tokens_alone, line.flops_alone)


def test_texts_shorter_than_a_question_are_no_negative_work() -> None:
    line = one("needle", grid(4, length=5))
    assert 0 < line.tokens_shared <= line.tokens_alone


def test_layers_that_forget_cannot_share() -> None:
    line = one("needle", grid(4), WINDOWED)
    assert line.tokens_shared == line.tokens_alone


def test_ruler_has_thirteen_tasks() -> None:
    line = one("ruler", grid(0))
    assert (line.prompts, line.tokens_alone) == (13 * 3, 13 * 3 * 1000)
    assert line.tokens_written == 3 * (8 * 128 + 30 + 120 + 50 + 32 + 32)


@pytest.mark.parametrize("suite", ["perplexity", "divergence"])
def test_reading_writes_nothing(suite: str) -> None:
    line = one(suite, grid(0))
    assert (line.prompts, line.tokens_written, line.bytes_read, line.hours_writing) == (3, 0, 0, 0)
    assert line.flops_alone == line.flops_shared == 3 * inference.prefill_flops(SHAPE, 0, 1000)


@pytest.mark.parametrize("suite", evaluation.SUITES)
def test_models_multiply(suite: str) -> None:
    single, many = one(suite, grid(4)), one(suite, grid(4), count=7)
    for name in ("prompts", "tokens_alone", "tokens_shared", "flops_alone", "flops_shared", "bytes_read"):
        assert getattr(many, name) == 7 * getattr(single, name)
    assert many.gpus == single.gpus


def test_models_of_a_study() -> None:
    assert evaluation.models(fine_tunes=1, ranks=0) == 4  # base, donor; alone, theta only
    assert evaluation.models(fine_tunes=3, ranks=2) == 2 + 3 * 4
