"""Documents of a packed sequence that do not see each other, in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.training.block_causal import check_block_causal
from contextgraft.training.data.batches import BatchSampler, TokenBatch
from contextgraft.training.data.context import load_context
from contextgraft.training.data.document_starts import restarting_positions
from contextgraft.training.data.packing import pack
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.reporting.progress import SilentReporter
from contextgraft.training.schedule import training_steps
from contextgraft.training.trainer import train

from .conftest import RECIPE, curve, write_recipe

APART = {"kind": "documents", "files": ["book.jsonl"], "mask": "block_causal"}
STARTS = ((0, 3, 4, 20), (0, 11))


@pytest.mark.parametrize("rows_at_once", [None, 1])
def test_loss_and_gradients_are_those_of_documents_alone(
    sharded: Path, recipe_folder: Path, rows_at_once: int | None
) -> None:
    """Against transformers, document by document; predicting the begin of a document counts for nothing."""
    ids = torch.randint(0, 20, (2, 29), generator=torch.Generator().manual_seed(0))
    weights = torch.ones(ids.shape)
    for row, starts in enumerate(STARTS):
        weights[row, list(starts)] = 0.0
    base, recipe = open_model(sharded), load_recipe(write_recipe(recipe_folder, data=[APART]))
    engine = SingleProcessEngine(rows_at_once=rows_at_once)
    state = engine.build(recipe, base, settings.read(base.config))
    batch = TokenBatch(ids, weights, restarting_positions(STARTS, 29), STARTS)
    result = engine.backward(state, batch, recipe)

    reference = AutoModelForCausalLM.from_pretrained(sharded, dtype=torch.float32)
    expected, count = torch.zeros(()), int(weights[:, 1:].sum())
    for row, starts in enumerate(STARTS):
        for begin, end in zip(starts, (*starts[1:], 29), strict=True):
            alone = ids[row : row + 1, begin:end]
            logits = reference(input_ids=alone).logits[0, :-1]
            expected = expected + torch.nn.functional.cross_entropy(logits, alone[0, 1:], reduction="sum")
    expected = expected / count
    torch.autograd.backward(expected)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(state.parameters[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_batches_of_a_recipe_have_the_begins_of_documents(
    base: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    stages = [{"length": 32, "steps": 2, "tokens": 64}]
    plain = {key: value for key, value in APART.items() if key != "mask"}
    made = {}
    for name, source in (("apart", APART), ("plain", plain)):
        recipe = load_recipe(write_recipe(recipe_folder, data=[source], stages=stages, replay={}))
        context = load_context(open_model(base), recipe_folder)
        work = tmp_path / name
        pack(recipe, context, work, datasets=None, reporter=SilentReporter())
        context = type(context)(context.encode, context.prefix_ids, context.vocabulary, recipe_folder, work)
        steps = training_steps(recipe)
        made[name] = BatchSampler(recipe, context, recipe.seed, steps).batch(steps[0])
    apart, usual = made["apart"], made["plain"]
    assert (usual.positions, usual.starts) == (None, None)
    assert torch.equal(apart.ids, usual.ids)
    assert torch.equal(apart.weights, usual.weights)
    assert apart.positions is not None
    assert apart.starts == tuple(tuple(row.nonzero()[:, 0].tolist()) for row in apart.weights == 0)
    assert torch.equal(apart.positions == 0, apart.weights == 0)
    inside = apart.positions[:, 1:] != 0
    assert (apart.positions.diff(dim=-1)[inside] == 1).all()
    assert any(len(row) > 1 for row in apart.starts)


def test_a_run_learns_something_else(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    losses = {}
    for mask in ("causal", "block_causal"):
        recipe = write_recipe(recipe_folder, data=[APART | {"mask": mask}])
        train(recipe, base, tmp_path / mask)
        losses[mask] = [step["loss"] for step in curve(tmp_path / mask)]
    assert losses["causal"] != losses["block_causal"]


def test_a_model_whose_documents_see_each_other_is_refused(base: Path) -> None:
    check_block_causal(AutoModelForCausalLM.from_pretrained(base))
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=20, hidden_size=16, state_size=4, num_hidden_layers=2)
    with pytest.raises(InputError, match=r"not supported for this architecture.*received MambaForCausalLM"):
        check_block_causal(MambaForCausalLM(config))


def test_positions_that_skip_are_refused() -> None:
    stages: list[dict[str, Any]] = [{"length": 32, "target_length": 64, "steps": 1, "tokens": 32}]
    wrong = RECIPE | {"data": [APART], "positions": "pose", "stages": stages, "replay": {}}
    with pytest.raises(ValidationError, match="pose and mask block_causal"):
        Recipe.model_validate(wrong)
