"""torch.compile of norms and MLPs against the same without, on the processor.

Most tests use aot_eager: the graphs and their gradients are those of the compiler, without generated code.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.training.activations.compiled import check_compiler, compile_layers
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.trainer import train

from .conftest import RECIPE, curve, write_recipe

CPU = torch.device("cpu")
IDS = torch.randint(0, 20, (2, 37), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts the graphs that are compiled, by aot_eager."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def gradients(base: Path, recipe_folder: Path, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    recipe = load_recipe(write_recipe(recipe_folder, **changes))
    engine, model = SingleProcessEngine(), open_model(base)
    state = engine.build(recipe, model, settings.read(model.config))
    result = engine.backward(state, TokenBatch(IDS, torch.ones(IDS.shape)), recipe)
    return result.loss, {name: p.grad for name, p in state.parameters.items() if p.grad is not None}


def check_equal(base: Path, recipe_folder: Path, **changes: Any) -> None:
    loss, expected = gradients(base, recipe_folder, **changes)
    mine, found = gradients(base, recipe_folder, compile=True, **changes)
    assert mine == pytest.approx(loss, rel=2e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_checkpointing": True, "mlp_tiles": 3},
        {"activation_checkpointing": "selective", "activation_offloading": True},
        {"lora": {"rank": 2, "alpha": 4}},
    ],
    ids=["plain", "checkpointed, tiled", "attention kept, offloaded", "lora"],
)
def test_loss_and_gradients_are_those_without(
    base: Path, recipe_folder: Path, graphs: Any, changes: dict[str, Any]
) -> None:
    check_equal(base, recipe_folder, **changes)
    assert graphs.frame_count > 0


def test_layers_share_what_is_compiled(base: Path, recipe_folder: Path, graphs: Any) -> None:
    """One graph for the norms and one for the MLPs of two layers."""
    gradients(base, recipe_folder, compile=True)
    assert graphs.frame_count == 2


@pytest.mark.slow
def test_a_run_with_the_compiler_itself(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    """Several lengths; it needs a C++ compiler."""
    try:
        check_compiler(Recipe.model_validate(RECIPE | {"compile": True}), CPU)
    except InputError as error:
        pytest.skip(str(error))
    train(write_recipe(recipe_folder), base, tmp_path / "plain")
    train(write_recipe(recipe_folder, compile=True), base, tmp_path / "compiled")
    plain, compiled = ([line["loss"] for line in curve(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=2e-5)


def test_without_a_compiler_it_is_one_line(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin ...")

    monkeypatch.setattr(torch, "compile", lambda _: failing)
    with pytest.raises(
        InputError, match=r"does not work on this machine.*No working C\+\+ compiler found; remove"
    ):
        train(write_recipe(recipe_folder, compile=True), base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    check_compiler(Recipe.model_validate(RECIPE), CPU)  # not asked for


def test_layers_without_norms_or_mlps_are_refused() -> None:
    with pytest.raises(InputError, match=r"compile does not know the layers.*received Identity"):
        compile_layers([torch.nn.Identity()])


def test_a_recipe_without_the_key_is_what_it_was() -> None:
    """The identity of runs that were begun by an earlier version."""
    assert "compile" not in Recipe.model_validate(RECIPE).model_dump()
