"""The shipped recipes are valid and say what was published."""

from pathlib import Path

import pytest

from contextgraft.config.training import Recipe, load_recipe
from contextgraft.rope.schedule import absolute, progressive_stages
from contextgraft.training.schedule import learning_rate, training_steps

FOLDER = Path(__file__).parents[2] / "config/recipes"
TOKENS = {
    "llama3-70b-gradient-1048k": [83886080, 104857600, 209715200, 33554432],
    "llama3-8b-gradient-1048k": [62914560, 100663296, 419430400, 838860800],
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
    large, small = ([stage.theta for stage in shipped(name).stages] for name in TOKENS)
    assert large == [*ruled, absolute(500000, 8192, 2**20)]
    assert small == [*ruled, jump]


def test_easycontext_trains_a_million_tokens_a_step() -> None:
    recipe = shipped("llama2-7b-easycontext-512k")
    assert all(1_000_000 < stage.tokens < 1_050_000 for stage in recipe.stages)
    assert recipe.stages[-1].learning_rate == 1e-5
