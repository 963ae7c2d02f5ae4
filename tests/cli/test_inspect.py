import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import LlamaConfig, LlamaForCausalLM

from contextgraft.cli.commands.inspect import command


def save(folder: Path, *, rows: int, shift: float = 0.0) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 12345.0},
    )
    model = LlamaForCausalLM(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[0] != rows:
                parameter.copy_(torch.randn(parameter.shape))
        model.model.embed_tokens.weight.copy_(torch.arange(rows * 8.0).reshape(rows, 8))
        model.model.layers[1].self_attn.q_proj.weight.mul_(1 + shift)
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(rows)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": words}}))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", rows=16)


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    return save(tmp_path / "tune", rows=20, shift=0.5)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_says_what_the_model_is(base: Path) -> None:
    info = json.loads(run(base, "--json").stdout)
    assert (info["architecture"], info["layers"], info["context"]) == ("LlamaForCausalLM", 2, 64)
    assert info["rope"] == {"theta": 12345.0, "rope_type": "default", "max_positions": 64, "extra": {}}
    assert info["vocabulary"] == {"rows": 16, "tokens": 16}
    parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(base).parameters())
    assert (info["parameters"], info["bytes"], info["dtypes"]) == (parameters, 4 * parameters, {"F32": 20})
    text = run(base).stdout
    assert all(piece in text for piece in ("LlamaForCausalLM", "theta 12345", "64 tokens", "16 rows", "F32"))


def test_says_how_far_from_the_base(base: Path, tune: Path) -> None:
    compared = json.loads(run(tune, "--base", base, "--json").stdout)["base"]
    assert compared["tensors_changed"] == 1
    assert 0 < compared["kinds"]["q_proj"]["relative"] < 0.5
    assert compared["kinds"]["embed_tokens"]["delta_norm"] == 0
    assert compared["shapes"] == {"model.embed_tokens.weight": {"base": [16, 8], "model": [20, 8]}}
    assert compared["vocabulary"]["only_model"] == ["w16", "w17", "w18", "w19"]
    text = run(tune, "--base", base).stdout
    assert "tokens only in the model: 4: w16, w17, w18, w19" in text
    assert "shape differs: 1: model.embed_tokens.weight [16, 8] -> [20, 8]" in text


def test_a_model_is_nowhere_from_itself(base: Path) -> None:
    compared = json.loads(run(base, "--base", base, "--json").stdout)["base"]
    assert compared["tensors_changed"] == 0
    assert all(row["relative"] == 0 for row in compared["kinds"].values())
