"""Layer inputs in host memory between the two passes of a layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.rope import settings
from contextgraft.training import engine as engines
from contextgraft.training.activations.offloading import offloading
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine

from .conftest import RECIPE, write_recipe

IDS = torch.randint(0, 20, (2, 37), generator=torch.Generator().manual_seed(0))


def gradients(base: Path, recipe_folder: Path, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    recipe = load_recipe(write_recipe(recipe_folder, **changes))
    engine, model = SingleProcessEngine(rows_at_once=1), open_model(base)
    state = engine.build(recipe, model, settings.read(model.config))
    result = engine.backward(state, TokenBatch(IDS, torch.ones(IDS.shape)), recipe)
    return result.loss, {name: p.grad for name, p in state.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("mode", [True, "selective"])
@pytest.mark.parametrize("tiles", [1, 3])
def test_what_layers_keep_leaves_the_device_and_gradients_are_the_same(
    base: Path, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, tiles: int
) -> None:
    moved: list[torch.Size] = []

    def recorded(recipe: Recipe) -> saved_tensors_hooks:
        hooks = offloading(recipe)
        assert isinstance(hooks, save_on_cpu)

        def pack(tensor: torch.Tensor) -> Any:
            moved.append(tensor.shape)
            return hooks.pack_hook(tensor)

        return saved_tensors_hooks(pack, hooks.unpack_hook)

    settings_ = {"activation_checkpointing": mode, "mlp_tiles": tiles}
    loss, expected = gradients(base, recipe_folder, **settings_)
    monkeypatch.setattr(engines, "offloading", recorded)
    mine, found = gradients(base, recipe_folder, activation_offloading=True, **settings_)
    assert mine == loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    hidden = moved.count(torch.Size([1, 37, 16]))  # in each of two passes: two layers, and the last norm
    assert 2 * 2 <= hidden <= 2 * 5
    assert not any(24 in shape for shape in moved)  # nothing from inside of an MLP


def test_nothing_is_offloaded_without_checkpointing() -> None:
    assert offloading(Recipe.model_validate(RECIPE)) is None
    with pytest.raises(ValidationError, match="activation_offloading needs activation_checkpointing"):
        Recipe.model_validate(RECIPE | {"activation_offloading": True})
