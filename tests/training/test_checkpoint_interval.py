"""When checkpoints are written, by a clock that only the test moves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.state import CheckpointTimer, SavedState
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import write_recipe, write_recipe_folder
from .test_frozen_weights import one_rank


class Clock:
    """Seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(timer: CheckpointTimer, clock: Clock, *, held: float, background: float) -> None:
    """A checkpoint that holds training up, and is then written while it goes on."""
    with timer.saving() as written:
        clock.now += held
    clock.now += background
    written()


@pytest.mark.parametrize(("held", "background"), [(6, 0), (1, 5), (0, 6)])
def test_a_checkpoint_is_written_for_a_twentieth_of_the_time(held: float, background: float) -> None:
    clock = Clock()
    timer = CheckpointTimer(None, clock)
    assert not timer.due()
    clock.now = 30
    assert timer.due(), "nothing is known of how long one takes"
    write(timer, clock, held=held, background=background)
    returned = 30 + held
    for seconds, due in ((119, False), (120, True)):  # 6 of 120 seconds
        clock.now = returned + seconds
        assert timer.due() is due
    write(timer, clock, held=0, background=1)
    assert timer.interval == 30


@pytest.mark.parametrize("stated", [0, 10, 500])
def test_a_stated_interval_is_kept(stated: float) -> None:
    clock = Clock()
    timer = CheckpointTimer(stated, clock)
    for _ in range(2):
        write(timer, clock, held=50, background=0)
        assert timer.due() is (stated == 0)
        clock.now += stated
        assert timer.due()


@pytest.mark.parametrize(("stated", "expected"), [(None, [3, 9]), (20.0, [2, 4, 6, 8, 9])])
def test_a_run_saves_when_it_is_due(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: float | None, expected: list[int]
) -> None:
    """Nine steps of ten seconds, checkpoints of four: the second is due eighty seconds after the first."""
    clock, engine = Clock(), SingleProcessEngine()
    backward, save, saved = engine.backward, engine.save, []

    def slow_backward(*arguments: Any) -> Any:
        clock.now += 10
        return backward(*arguments)

    def slow_save(state: SavedState, work: Path, **options: Any) -> None:
        clock.now += 4
        saved.append(state.step)
        save(state, work, **options)

    monkeypatch.setattr(engine, "backward", slow_backward)
    monkeypatch.setattr(engine, "save", slow_save)
    stages = [{"length": 16, "steps": 9, "tokens": 16}]
    recipe = write_recipe(write_recipe_folder(tmp_path / "recipes"), stages=stages, replay={})
    options = TrainingOptions(checkpoint_seconds=stated, clock=clock)
    train(recipe, base, tmp_path / "out", options, engine=engine)
    assert saved == expected


def test_the_engine_of_many_says_when_a_checkpoint_is_written(sharded: Path, tmp_path: Path) -> None:
    with one_rank(sharded, torch.float32) as engine:
        assert isinstance(engine, DistributedEngine)
        said: list[bool] = []
        state = SavedState(1, {"weight/w": torch.ones(3)})
        engine.save(state, tmp_path, wait=True, written=lambda: said.append(True))
        assert said == [True]
