"""What a log shows of a long command; time passes only by hand."""

import io

import pytest

from contextgraft.cli.progress import LINE_INTERVAL, log_lines
from contextgraft.evaluation import progress
from contextgraft.evaluation.progress import TerminalProgress


class Clock:
    """Seconds that pass only by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bytes_are_shown_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with log_lines("merge", 4_000_000, clock) as advance:
        advance(10)
        assert capsys.readouterr().err == ""
        clock.now += 4 * LINE_INTERVAL
        advance(999_990)
        advance(1_000_000)
    assert capsys.readouterr().err == "merge: 25 % of 4.0 MB, about 6 min left\n"


def test_a_number_of_things_is_shown_in_their_unit(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with log_lines("compare", 4000, clock, size=lambda count: f"{count:,} tensors") as advance:
        clock.now += LINE_INTERVAL
        advance(1000)
    assert capsys.readouterr().err == "compare: 25 % of 4,000 tensors, about 2 min left\n"


def test_a_model_has_lines_as_it_begins_runs_and_ends() -> None:
    clock, log = Clock(), io.StringIO()
    with TerminalProgress(2, log, clock) as shown:
        shown.model("one", {"needle": 1000, "skill": 200}, known=200)
        first = "[1/2] one: 1000 needle, 200 skill (200 from an earlier run)"
        assert log.getvalue().splitlines() == [first]
        clock.now += progress.LINE_INTERVAL - 1
        shown.advance(50)
        clock.now += 91
        shown.advance(50)
        shown.advance(1)
        shown.kept("two")
    assert log.getvalue().splitlines() == [
        first,
        "[1/2] one: 300 of 1,200, about 18 min left",
        f"{first}, 120.0 s",
        "[2/2] two: complete already",
    ]
