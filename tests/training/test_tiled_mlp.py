"""MLPs in tiles: the same loss and gradients, with less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.training.activations.tiled_mlp import check_tiling, tile_mlps
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.model import check_mlp_tiles
from contextgraft.training.trainer import train

from .conftest import write_recipe

IDS = torch.randint(0, 20, (2, 37), generator=torch.Generator().manual_seed(0))


def step(base: Path, recipe_folder: Path, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch."""
    recipe = load_recipe(write_recipe(recipe_folder, **changes))
    engine, model = SingleProcessEngine(), open_model(base)
    state = engine.build(recipe, model, settings.read(model.config))
    result = engine.backward(state, TokenBatch(IDS, torch.ones(IDS.shape)), recipe)
    return result.loss, {name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("tiles", [2, 5, 37, 1000])
@pytest.mark.parametrize(
    "changes", [{}, {"activation_checkpointing": True}, {"lora": {"rank": 2, "alpha": 2}}], ids=str
)
def test_loss_and_gradients_are_the_same(
    base: Path, recipe_folder: Path, tiles: int, changes: dict[str, Any]
) -> None:
    loss, expected = step(base, recipe_folder, **changes)
    tiled_loss, gradients = step(base, recipe_folder, mlp_tiles=tiles, **changes)
    assert tiled_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_a_layer_without_an_mlp_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not know the layers.*received Linear"):
        tile_mlps([torch.nn.Linear(2, 2)], 2)


def test_layers_may_have_another_name(tmp_path: Path, recipe_folder: Path) -> None:
    """Falcon's decoder has no `layers`."""
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64
    )
    falcon = tmp_path / "falcon"
    FalconForCausalLM(config).save_pretrained(falcon)
    recipe = load_recipe(write_recipe(recipe_folder, mlp_tiles=3))
    check_mlp_tiles(recipe, open_model(falcon), settings.read(config.to_dict()))
    loss, expected = step(falcon, recipe_folder)
    tiled_loss, gradients = step(falcon, recipe_folder, mlp_tiles=3)
    assert tiled_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_a_model_that_cannot_be_tiled_is_refused_before_packing(
    base: Path, tmp_path: Path, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mixtures of experts return the scores of their router, too."""
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, hidden: (hidden, hidden))
    monkeypatch.setattr("contextgraft.training.trainer.pack", None)
    with pytest.raises(InputError, match=r"mlp_tiles is not supported.*received LlamaMLP"):
        train(write_recipe(recipe_folder, mlp_tiles=2), base, tmp_path / "out")


class Additive(torch.nn.Module):
    """Adds a second input, as BLOOM's does."""

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return hidden + residual


def test_an_mlp_that_needs_more_is_refused() -> None:
    layer = torch.nn.Module()
    layer.mlp = Additive()
    with pytest.raises(InputError, match=r"not supported.*one tensor.*received Additive"):
        check_tiling([layer], 4)


class Pair(torch.nn.Module):
    """Returns two results, as some mixtures of experts do."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden, hidden


def test_an_mlp_that_returns_more_is_refused() -> None:
    layer = torch.nn.Module()
    layer.mlp = Pair()
    tile_mlps([layer], 2)
    with pytest.raises(InputError, match="return more than their output"):
        layer.mlp(torch.ones(1, 4, 2))
