"""A rank never has memory for a whole model, written to or not, and its rows are those of the file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.rope import settings
from contextgraft.training import lora
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.model import build, linear_layers, materialise

from ..conftest import write_recipe
from .conftest import environments

SCRIPT = Path(__file__).with_name("limited_build.py")
LORA = {"lora": {"rank": 2, "alpha": 4}, "trainable": ["linear"]}


@pytest.mark.parametrize("tied", [True, False])
def test_two_ranks_build_a_model_in_less_than_its_memory(tmp_path: Path, *, tied: bool) -> None:
    """Each of them holds half of it, and reads one tensor at a time. Rows that two do not divide, too.

    Parts of matrices have more than 32 MiB: glibc gives the memory of smaller ones not always back.
    """
    config = LlamaConfig(
        vocab_size=9001, hidden_size=2048, intermediate_size=8703, num_hidden_layers=1, head_dim=16,
        num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert whole > 220 * 2**20
    command = [sys.executable, str(SCRIPT), str(tmp_path / "base"), str(15 * whole // 16)]
    # Not forked from a process that other tests have used: its freed blocks would count.
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for environment in environments(2, None)
    ]
    for rank in ranks:
        out, err = rank.communicate()
        assert rank.returncode == 0, err
        said = json.loads(out)
        assert said == {"parameters": sorted(load_file(tmp_path / "base/model.safetensors")), "other": []}


def test_weights_and_buffers_are_those_of_transformers(base: Path, recipe_folder: Path) -> None:
    recipe, folder = load_recipe(write_recipe(recipe_folder)), open_model(base)
    state = SingleProcessEngine().build(recipe, folder, settings.read(folder.config))
    mine: Any = state.model.causal_lm
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for found, expected in (
        (dict(mine.named_parameters()), dict(theirs.named_parameters())),
        (dict(mine.named_buffers()), dict(theirs.named_buffers())),
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert mine.lm_head.weight is mine.model.embed_tokens.weight


def test_factors_of_lora_are_those_that_peft_draws(base: Path, recipe_folder: Path) -> None:
    recipe, folder = load_recipe(write_recipe(recipe_folder, **LORA)), open_model(base)
    assert recipe.lora is not None
    mine = SingleProcessEngine().build(recipe, folder, settings.read(folder.config)).parameters
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora.insert(theirs, recipe.lora, linear_layers(theirs), seed=recipe.seed)
    expected = {name: factor for name, factor in theirs.named_parameters() if lora.is_factor(name)}
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], factor) for name, factor in expected.items())
    assert any(factor.any() for factor in mine.values())


def test_a_model_has_no_memory_until_it_is_asked_for(base: Path) -> None:
    folder = open_model(base)
    model = build(folder.config, settings.read(folder.config), activation_checkpointing=False)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
    materialise(model, torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"  # the hook is gone
