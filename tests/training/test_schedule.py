from itertools import pairwise

import pytest

from contextgraft.config.training import Recipe
from contextgraft.rope.schedule import progressive
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.schedule import TrainingStep, learning_rate, stage_thetas, training_steps

DATA = [{"kind": "repeat"}]
OPTIMISER = {"learning_rate": 1.0, "warmup": 4, "final": 0.1}


def recipe(**changes: object) -> Recipe:
    stages = [{"length": 16, "steps": 4, "tokens": 32}, {"length": 64, "steps": 6, "tokens": 64}]
    return Recipe.model_validate(
        {"name": "x", "stages": stages, "data": DATA, "optimiser": OPTIMISER, **changes}
    )


def test_thetas_follow_the_rule_stage_by_stage() -> None:
    base = RopeSettings(500000.0, 8192)
    stages = [{"length": n, "steps": 1, "tokens": n} for n in (65536, 262144, 524288)]
    assert stage_thetas(recipe(stages=stages, theta="progressive"), base, 128) == [
        15296098,
        207112184,
        1062356830,
    ]


def test_absolute_rule_and_margin() -> None:
    base = RopeSettings(500000.0, 8192)
    stages = [{"length": 2**19, "steps": 1, "tokens": 2**19}]
    assert stage_thetas(recipe(stages=stages, theta="absolute", margin=2), base, 128) == [3580165449]


def test_margin_enters_the_progressive_rule_once() -> None:
    base = RopeSettings(10000.0, 8)
    first = progressive(10000.0, 8, 32, 32)
    assert stage_thetas(recipe(theta="progressive", margin=2), base, 32) == [
        first,
        progressive(first, 32, 128, 32),
    ]


def test_a_stage_may_give_its_own_theta_or_keep_the_base_s() -> None:
    stages = [
        {"length": 16, "steps": 1, "tokens": 16, "theta": 5.0},
        {"length": 16, "steps": 1, "tokens": 16},
    ]
    assert stage_thetas(recipe(stages=stages), RopeSettings(7.0, 16), 32) == [5.0, 7.0]


def test_short_steps_are_spread_evenly_and_turn_through_their_lengths() -> None:
    plan = training_steps(recipe(replay={"share": 0.5, "lengths": [4, 8], "tokens": 16}))
    assert [step.length for step in plan] == [16, 4, 16, 8, 64, 4, 64, 8, 64, 4]
    assert [step.stage for step in plan] == [0] * 4 + [1] * 6
    assert {step.length * step.rows for step in plan} == {32, 64, 16}


def test_a_stage_may_give_its_own_learning_rate() -> None:
    stages = [{"length": 16, "steps": 4, "tokens": 32, "learning_rate": 0.5}]
    assert learning_rate(recipe(stages=stages), TrainingStep(3, 0, 16, 2), 100) == pytest.approx(
        0.5 * learning_rate(recipe(), TrainingStep(3, 0, 16, 2), 100)
    )


def test_no_replay_means_no_short_steps() -> None:
    assert {step.length for step in training_steps(recipe())} == {16, 64}


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(recipe(), TrainingStep(number, 0, 16, 2), 100) for number in range(100)]
    assert rates[0] == pytest.approx(0.25)
    assert rates.index(max(rates)) == 3
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a > b for a, b in pairwise(rates[3:]))


@pytest.mark.parametrize(
    "changes",
    [
        {"replay": {"share": 0.5}},
        {"replay": {"share": 0.5, "lengths": [5], "tokens": 16}},
        {"stages": [{"length": 16, "steps": 4, "tokens": 30}]},
        {"data": [{"kind": "repeat", "lengths": [16]}]},
        {"data": [{"kind": "poetry"}]},
        {"trainable": []},
    ],
)
def test_recipes_that_cannot_run_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"replay|multiple|no data|poetry|trainable"):
        recipe(**changes)
