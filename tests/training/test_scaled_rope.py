"""YaRN and LongRoPE by the stages of a recipe, against transformers' own functions and models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.errors import ConfigError, InputError
from contextgraft.rope import settings
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.schedule import stage_ropes
from contextgraft.training.trainer import train

from .conftest import Recorder, curve, write_recipe
from .parallel.conftest import COMMAND, finish, start_ranks
from .test_frozen_weights import one_rank

YARN = {"rope_type": "yarn"}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.0, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
PLAIN: dict[str, Any] = {"theta": "keep", "replay": {}, "data": [{"kind": "repeat", "first": 2}]}


def stages(*ropes: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Stages of 32, 64, ... tokens; the base has 16."""
    return [
        {"length": 32 * 2**number, "steps": 2, "tokens": 128} | ({} if rope is None else {"rope": rope})
        for number, rope in enumerate(ropes)
    ]


def by_hand(base: Path, length: int, **rope: Any) -> LlamaConfig:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    parameters = {"rope_theta": 10000.0, "original_max_position_embeddings": 16, **rope}
    rest = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    return LlamaConfig(**rest | {"max_position_embeddings": length, "rope_parameters": parameters})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (YARN, {"factor": 4.0}),
        (
            YARN | {"factor": 8, "beta_fast": 16, "attention_factor": 1.25},
            {"factor": 8.0, "beta_fast": 16.0, "attention_factor": 1.25},
        ),
        (
            LONGROPE,
            {"factor": 4.0, "short_factor": LONGROPE["short_factor"], "long_factor": LONGROPE["long_factor"]},
        ),
    ],
)
def test_frequencies_and_losses_are_those_of_transformers(
    base: Path, recipe_folder: Path, tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    """In training and in the result; the second stage, of 64 tokens, is the one that is compared."""
    reference = by_hand(base, 64, rope_type=given["rope_type"], **expected)
    init = ROPE_INIT_FUNCTIONS[given["rope_type"]]
    frequencies, scaling = init(reference, torch.device("cpu"), seq_len=64)
    recipe = load_recipe(write_recipe(recipe_folder, stages=stages(None, given), **PLAIN))
    model, engine = open_model(base), SingleProcessEngine()
    ropes = stage_ropes(recipe, settings.read(model.config), 8)
    assert ropes[0].rope_type == "default"
    state = engine.build(recipe, model, ropes[1])
    ids = torch.randint(0, 20, (2, 64), generator=torch.Generator().manual_seed(1))
    loss = engine.backward(state, TokenBatch(ids, torch.ones(ids.shape)), recipe).loss
    rotary: Any = state.model.causal_lm.model.rotary_emb  # type: ignore[union-attr]
    assert torch.equal(rotary.inv_freq, frequencies)
    assert rotary.attention_scaling == scaling
    theirs = LlamaForCausalLM.from_pretrained(base, config=reference, dtype=torch.float32)
    assert loss == pytest.approx(theirs(ids, labels=ids).loss.item(), rel=1e-6)

    said: list[str] = []
    train(recipe_folder / "recipe.yaml", base, tmp_path / "out", reporter=Recorder(said))
    assert (
        f"stage 2/2: length 64, theta 10,000, {given['rope_type']} with factor {expected['factor']:g}" in said
    )
    read = AutoConfig.from_pretrained(tmp_path / "out")
    assert read.max_position_embeddings == 64
    found, found_scaling = init(read, torch.device("cpu"), seq_len=64)
    assert torch.equal(found, frequencies)
    assert found_scaling == scaling
    record = json.loads((tmp_path / "out" / "contextgraft.json").read_text(encoding="utf-8"))
    assert record["rope"]["rope_type"] == given["rope_type"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"stages": stages(YARN | {"factor": 1.5})},
            r"stages.0.rope does not reach .* 32 positions or more; received 1.5 x 16",
        ),
        (
            {"stages": stages(YARN | {"original_max_position_embeddings": 64})},
            "does not reach .* received 0.5 x 64",
        ),
        (
            {"stages": stages(LONGROPE | {"long_factor": [1.0, 2.0]})},
            "stages.0 do not fit the base.*a list of 2",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(
    base: Path, recipe_folder: Path, tmp_path: Path, changes: dict[str, Any], error: str
) -> None:
    (recipe_folder / "broken.parquet").write_bytes(b"nothing")
    documents = {"data": [{"kind": "documents", "files": ["broken.parquet"]}]}
    with pytest.raises(InputError, match=error):
        train(write_recipe(recipe_folder, **PLAIN | documents | changes), base, tmp_path / "out")


def test_a_base_with_scaling_of_its_own_keeps_it(base: Path, recipe_folder: Path) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    own = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 8}
    rope = settings.read(config | {"rope_parameters": own, "rope_scaling": None})
    with pytest.raises(InputError, match="type default, the same in all layers; received yarn"):
        stage_ropes(load_recipe(write_recipe(recipe_folder, stages=stages(YARN), **PLAIN)), rope, 8)
    (kept,) = stage_ropes(load_recipe(write_recipe(recipe_folder, stages=stages(None), **PLAIN)), rope, 8)
    assert (kept.rope_type, kept.extra["factor"]) == ("yarn", 2.0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"theta": "absolute"}, r"stages.0: rope needs theta: keep, or theta in the stage"),
        ({"stages": stages({"rope_type": "dynamic", "factor": 2})}, "rope"),
        ({"stages": stages(YARN | {"factor": 0.5})}, "factor"),
        ({"stages": stages(YARN | {"long_factor": [1.0]})}, "unknown key 'stages.0.rope.*long_factor'"),
        ({"stages": stages({"rope_type": "longrope"})}, "short_factor"),
    ],
)
def test_wrong_recipes_are_one_line(recipe_folder: Path, changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load_recipe(write_recipe(recipe_folder, **{**PLAIN, "stages": stages(YARN), **changes}))
    load_recipe(
        write_recipe(
            recipe_folder, **{**PLAIN, "theta": "absolute", "stages": [stages(YARN)[0] | {"theta": 2e4}]}
        )
    )


def test_longrope_is_refused_in_several_processes(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    """Before data is read; YaRN is not."""
    (recipe_folder / "broken.parquet").write_bytes(b"nothing")
    documents = {"data": [{"kind": "documents", "files": ["broken.parquet"]}]}
    for rope, error in (
        (LONGROPE, "would differ between ranks.*received longrope"),
        (YARN, "broken.parquet"),
    ):
        recipe = write_recipe(recipe_folder, **PLAIN | documents | {"stages": stages(None, rope)})
        with pytest.raises(InputError, match=error), one_rank(sharded, torch.float32) as engine:
            train(recipe, sharded, tmp_path / "out", engine=engine)


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_process(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(recipe_folder, stages=stages(YARN, YARN), **PLAIN)
    train(recipe, sharded, tmp_path / "alone")
    command = [*COMMAND, "--config", str(recipe), "--base", str(sharded), "--out", str(tmp_path / "out")]
    finish(start_ranks(command, 2))
    for mine, alone in zip(curve(tmp_path / "out"), curve(tmp_path / "alone"), strict=True):
        assert mine["loss"] == pytest.approx(alone["loss"], rel=2e-6)
