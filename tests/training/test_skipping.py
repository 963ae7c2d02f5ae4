"""Position ids that skip (PoSE): their distribution, the loss they give, and runs with them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.rope import settings
from contextgraft.rope.schedule import progressive
from contextgraft.training.data.batches import BatchSampler
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.skipping import skipping_positions
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.schedule import training_steps
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import RECIPE, interrupt, write_recipe

DRAWS = 6000
POSE: dict[str, Any] = {
    "positions": "pose",
    "stages": [{"length": 16, "steps": 3, "tokens": 64, "target_length": 128}],
    "data": [{"kind": "repeat", "first": 2}],
    "replay": {"share": 0.4, "lengths": [8], "tokens": 16},
}


@given(st.integers(2, 40), st.integers(0, 500), st.data())
def test_positions_increase_and_end_before_the_target(length: int, room: int, data: st.DataObject) -> None:
    chunks = data.draw(st.integers(1, length))
    seed = data.draw(st.integers(0, 2**32))
    positions = skipping_positions(np.random.default_rng(seed), length, length + room, chunks)
    assert positions.shape == (length,)
    assert positions[0] == 0
    assert (np.diff(positions) >= 1).all()
    assert positions[-1] < length + room
    assert (np.diff(positions) > 1).sum() <= chunks - 1
    assert (positions == skipping_positions(np.random.default_rng(seed), length, length + room, chunks)).all()


def chi_square(counts: Counter[int], values: range) -> float:
    """Against equal frequencies, less the degrees of freedom, in standard deviations."""
    expected = DRAWS / len(values)
    statistic = sum((counts[value] - expected) ** 2 / expected for value in values)
    freedom = len(values) - 1
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


def test_boundaries_and_offsets_are_uniform() -> None:
    """Of two chunks: an offset of 0, which one draw in 985 has, hides the boundary."""
    rng = np.random.default_rng(3)
    length, target = 16, 1000
    rows = np.stack([skipping_positions(rng, length, target, 2) for _ in range(DRAWS)])
    steps = np.diff(rows)
    boundaries = Counter((steps > 1).argmax(axis=1) + 1)
    assert chi_square(boundaries, range(1, length)) < 4
    offsets = Counter((rows[:, -1] - (length - 1)) * 10 // (target - length + 1))
    assert chi_square(offsets, range(10)) < 4


def test_a_later_chunk_is_not_moved_less() -> None:
    """Of three: the second offset is uniform up to the most, the third between it and the most."""
    rng = np.random.default_rng(4)
    rows = np.stack([skipping_positions(rng, 3, 103, 3) for _ in range(DRAWS)])
    second, third = rows[:, 1] - 1, rows[:, 2] - 2
    assert second.mean() == pytest.approx(50, abs=1.5)
    assert third.mean() == pytest.approx(75, abs=1.5)
    assert (third >= second).all()


def batches(recipe: Recipe, seed: int) -> list[Any]:
    context = DataContext(lambda text: [], (), 20, Path())
    steps = training_steps(recipe)
    return [BatchSampler(recipe, context, seed, steps).batch(step) for step in steps]


def test_batches_skip_by_the_seed_and_short_ones_do_not() -> None:
    recipe = Recipe.model_validate({**RECIPE, **POSE})
    plain = recipe.model_copy(
        update={"stages": tuple(s.model_copy(update={"target_length": None}) for s in recipe.stages)}
    )
    once, again, other, without = (
        batches(recipe, 1),
        batches(recipe, 1),
        batches(recipe, 2),
        batches(plain, 1),
    )
    assert [batch.positions is None for batch in once] == [False, False, True]
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(once, without, strict=True)), "texts are the same"
    first = [run[0].positions for run in (once, again, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert len({tuple(row.tolist()) for row in first[0]}) == 4, "each row has its own"
    assert not torch.equal(once[0].positions, once[1].positions)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_loss_and_gradients_are_those_of_transformers(base: Path, recipe_folder: Path, kind: str) -> None:
    """The reference is given a mask of its own: causal over all chunks, which nothing may divide."""
    recipe = load_recipe(write_recipe(recipe_folder, **POSE))
    model = open_model(base)
    batch = batches(recipe, 1)[0]
    engine = SingleProcessEngine()
    state = engine.build(recipe, model, settings.read(model.config))
    result = engine.backward(state, batch, recipe)
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=kind)
    causal = torch.full((16, 16), torch.finfo(torch.float32).min).triu(1).expand(4, 1, 16, 16)
    logits = reference(input_ids=batch.ids, position_ids=batch.positions, attention_mask=causal).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    expected = (losses * weights).sum() / weights.sum()
    expected.backward()
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in state.parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7)
    consecutive = engine.backward(state, batch._replace(positions=None), recipe)
    assert abs(consecutive.loss / result.loss - 1) > 1e-6, "positions matter"


def test_a_run_has_the_context_of_its_target(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_recipe(recipe_folder, **POSE)
    train(config, base, tmp_path / "whole")
    rope = settings.read(open_model(tmp_path / "whole").config)
    assert (rope.max_positions, rope.theta) == (128, progressive(10000.0, 16, 128, 8))
    interrupt(
        monkeypatch,
        2,
        lambda: train(config, base, tmp_path / "stopped", TrainingOptions(checkpoint_seconds=0)),
    )
    train(config, base, tmp_path / "stopped")
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "stopped")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "consecutive"}, "positions pose needs target_length"),
        ({"stages": [{"length": 16, "steps": 1, "tokens": 16}]}, "positions pose needs target_length"),
        ({"stages": [{**POSE["stages"][0], "target_length": 15}]}, r"target_length \(15\) must be at least"),
        ({"pose_chunks": 17}, r"pose_chunks \(17\) is more than its length"),
        ({"pose_chunks": 0}, "pose_chunks"),
        ({"pose_chunks": 1}, r"pose_chunks\n.*greater than or equal to 2"),  # would skip no position
    ],
)
def test_recipes_that_cannot_skip_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({**RECIPE, **POSE, **changes})
