"""The benchmark's judgement: runs next to other programs are repeated, goals are ratios within bounds."""

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def _bench_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def cost(wall: float, others: float = 0.0) -> Any:
    return importlib.import_module("measure").Cost(wall, wall, 0.0, 1.0, 1.0, others, 1.0)


def paired(costs: list[Any], runs: int, end: float) -> Any:
    """The result of a program whose runs have these costs, and how many of them ran."""
    left = list(costs)
    result = importlib.import_module("measure").paired({"program": lambda: left.pop(0)}, runs, end)
    return result["program"], len(costs) - len(left)


def test_only_quiet_runs_count_and_others_are_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    later = time.monotonic() + 1000
    result, ran = paired([cost(9, 1.5), cost(2), cost(8, 0.9), cost(4), cost(7)], 2, later)
    assert (result.wall, result.others, result.runs, ran) == (3, 0, 2, 4)
    assert capsys.readouterr().err.count("other programs used") == 2


def test_without_time_left_nothing_is_repeated_and_the_result_says_so() -> None:
    result, ran = paired([cost(9, 1.5), cost(5, 1.0), cost(1)], 2, 0.0)
    assert (result.wall, result.is_quiet, ran) == (7, False, 2)


def test_goals_are_judged_or_not_measured() -> None:
    goals = importlib.import_module("goals")
    goal = goals.Goal("ours / theirs", "1B", ("ours", "wall"), ("theirs", "wall"), most=1.1)
    results = {"1B": {"ours": cost(2.1), "theirs": cost(2.0)}}
    assert goal.row(results) == "| ours / theirs | 1B | <= 1.1 | 1.05: reached |"
    results["1B"]["ours"] = cost(3)
    assert goal.row(results).endswith("| 1.50: **not reached** |")
    results["1B"]["ours"] = cost(3, 1.5)
    assert goal.row(results).endswith("| 1.50: **not reached** (next to other programs) |")
    assert goal.row({}).endswith("| not measured |")


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results, floors = importlib.import_module("results"), importlib.import_module("floors")
    measured = results.Measured(floors.Machine(1e9, 2e9, 2), {"1B": 3}, {"1B": {"merge": cost(1.5)}})
    measured.write(tmp_path / "bench.json")
    assert results.Measured.read(tmp_path / "bench.json") == measured
