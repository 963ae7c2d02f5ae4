"""The shipped recipes are valid and say what was published."""

from pathlib import Path

import pytest

from contextgraft.config.training import Recipe, load_recipe
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.planning.training import ParallelPlan, stage_costs
from contextgraft.rope.schedule import absolute, progressive_stages
from contextgraft.training.schedule import learning_rate, training_steps

FOLDER = Path(__file__).parents[2] / "config/recipes"
TOKENS = {
    "llama3-70b-gradient-1048k": [83886080, 104857600, 209715200, 33554432],
    "llama3-8b-gradient-1048k": [62914560, 100663296, 419430400, 838860800],
    "llama3-8b-1048k-one-node": [62914560, 100663296, 419430400, 838860800],
    "llama3-70b-262k-two-nodes": [83886080, 104857600],
}


def shipped(name: str) -> Recipe:
    return load_recipe(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_bears_its_name(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert len(training_steps(recipe)) == sum(stage.steps for stage in recipe.stages)
    rates = {learning_rate(recipe, step, 10000) for step in training_steps(recipe)[:50]}
    assert rates == {2e-5}


@pytest.mark.parametrize("name", TOKENS)
def test_gradient_tokens_are_the_published_ones(name: str) -> None:
    assert [stage.tokens * stage.steps for stage in shipped(name).stages] == TOKENS[name]


def test_gradient_thetas_are_the_rules() -> None:
    ruled = [float(theta) for theta in progressive_stages(500000, 8192, [2**16, 2**18, 2**19], 128)]
    jump = progressive_stages(500000, 8192, [2**16, 2**18, 2**20], 128)[-1]
    large, *small, short = ([stage.theta for stage in shipped(name).stages] for name in TOKENS)
    assert large == [*ruled, absolute(500000, 8192, 2**20)]
    assert small == [[*ruled, jump]] * 2
    assert short == ruled[:2]


def test_the_recipe_for_one_node_fits_it() -> None:
    """8 x 80 GB, one sequence over all ranks; without its two keys it does not fit."""
    shape, plan = read_model_shape("llama3-8b"), ParallelPlan(8, context=8, rows=1)
    fits = shipped("llama3-8b-1048k-one-node")
    assert max(cost.memory.total for cost in stage_costs(fits, shape, Hardware(), plan)) < 60e9
    for changes in ({"activation_offloading": False}, {"mlp_tiles": 1, "activation_offloading": False}):
        costs = stage_costs(fits.model_copy(update=changes), shape, Hardware(), plan)
        assert max(cost.memory.total for cost in costs) > 80e9


def test_the_recipe_for_two_nodes_fits_them() -> None:
    """16 x 80 GB, a sequence on each node; without any of its keys it does not fit."""
    shape, plan = read_model_shape("llama3-70b"), ParallelPlan(16, context=8, rows=1)
    fits = shipped("llama3-70b-262k-two-nodes")
    costs = stage_costs(fits, shape, Hardware(), plan)
    assert max(cost.memory.total for cost in costs) < 70e9
    assert max(8 * cost.host for cost in costs) < 700e9
    on_device = fits.optimiser.model_copy(update={"offload": False})
    for changes in ({"activation_offloading": False}, {"optimiser": on_device}):
        costs = stage_costs(fits.model_copy(update=changes), shape, Hardware(), plan)
        assert max(cost.memory.total for cost in costs) > 80e9


def test_easycontext_trains_a_million_tokens_a_step() -> None:
    recipe = shipped("llama2-7b-easycontext-512k")
    assert all(1_000_000 < stage.tokens < 1_050_000 for stage in recipe.stages)
    assert recipe.stages[-1].learning_rate == 1e-5
