"""Only the model of the present stage is in memory, by what is alive, in both engines."""

import gc
import json
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from contextgraft.training.engine import SingleProcessEngine, TrainingEngine
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo, process_group
from contextgraft.training.state import TrainState
from contextgraft.training.trainer import train

from .conftest import write_recipe

STAGES = [{"length": 16 * 2**stage, "steps": 2, "tokens": 64} for stage in range(3)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Python's collector runs only where the program calls it."""
    gc.disable()
    yield
    gc.enable()


def watch(engine: TrainingEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Of every step: how many parameters of each stage's model are alive."""
    models: list[list[weakref.ref[torch.nn.Parameter]]] = []
    alive: list[list[int]] = []
    build, backward = engine.build, engine.backward

    def watched_build(*arguments: Any) -> TrainState:
        state = build(*arguments)
        models.append([weakref.ref(parameter) for parameter in state.model.parameters()])
        return state

    def watched_backward(*arguments: Any) -> Any:
        result = backward(*arguments)
        alive.append([sum(parameter() is not None for parameter in model) for model in models])
        return result

    monkeypatch.setattr(engine, "build", watched_build)
    monkeypatch.setattr(engine, "backward", watched_backward)
    return alive


def check(alive: list[list[int]]) -> None:
    whole = alive[0][0]
    assert alive[::2] == [[0] * stage + [whole] for stage in range(3)]
    assert alive[1::2] == alive[::2]


@pytest.mark.usefixtures("no_collector")
def test_one_process(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SingleProcessEngine()
    alive = watch(engine, monkeypatch)
    train(write_recipe(recipe_folder, stages=STAGES, replay={}), base, tmp_path / "out", engine=engine)
    check(alive)


@pytest.mark.usefixtures("no_collector")
def test_engine_of_many(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_recipe(recipe_folder, stages=STAGES, replay={}, activation_checkpointing=True)
    info = RankInfo(0, 1, 0, 1)
    with process_group(info, timedelta(minutes=5)) as device:
        shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
        engine = DistributedEngine(info, device, ParallelOptions(), shape)
        alive = watch(engine, monkeypatch)
        train(config, base, tmp_path / "out", engine=engine)
    check(alive)
