"""Models as transformers saves them that cannot be grafted: refused by name, in one line, before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tests.parity.families.proof import base_config, model_of
from tests.parity.families.table import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.cli.commands import extract
from contextgraft.errors import ContextgraftError

TINY: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "num_local_experts": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, whose experts are stacked, and a donor."""
    root = tmp_path_factory.mktemp("stacked")
    for name in ("base", "donor"):
        AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **TINY)).save_pretrained(root / name)
    return root


def refused(root: Path, *words: object) -> str:
    pair = ["--base", root / "base", "--donor", root / "donor", "--rank", "4", "--out", root / "out"]
    done = CliRunner().invoke(extract.command, [str(word) for word in (*pair, *words)])
    assert isinstance(done.exception, ContextgraftError), done.output
    assert not (root / "out").exists()
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_mergekit_does_not_factorise_stacked_experts(stacked: Path) -> None:
    said = refused(stacked, "--backend", "mergekit")
    assert "experts" in said
    assert "own backend" in said


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deepseek_v3", "kv_b_proj"),
        ("longcat_flash", "no such architecture"),
        ("dbrx", "all its experts"),
        ("phimoe", "another model"),
    ],
)
def test_llama_cpp_takes_no_adapters_of_some_classes(name: str, reason: str, tmp_path: Path) -> None:
    model = model_of(base_config(name, FAMILIES[name]))
    for side in ("base", "donor"):
        model.save_pretrained(tmp_path / side)
    said = refused(tmp_path, "--gguf")
    assert f"no GGUF adapter can be written for {name}" in said
    assert reason in said


def test_experts_stacked_on_one_side_only(stacked: Path, tmp_path: Path) -> None:
    for name in ("base", "donor"):
        shutil.copytree(stacked / name, tmp_path / name)
    split: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(tmp_path / "donor/model.safetensors").items():
        if tensor.dim() > 2:
            split |= {f"{name}.{n}.weight": part.T.contiguous() for n, part in enumerate(tensor)}
        else:
            split[name] = tensor
    save_file(split, tmp_path / "donor/model.safetensors")
    said = refused(tmp_path)
    assert "model.layers.0.mlp.experts.down_proj" in said
    assert "stacked" in said


@pytest.mark.parametrize("without", ["model_type"])
def test_stacked_experts_of_a_class_that_transformers_does_not_have(
    without: str, stacked: Path, tmp_path: Path
) -> None:
    for name in ("base", "donor"):
        shutil.copytree(stacked / name, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, without: "unheard_of"}))
    said = refused(tmp_path)
    assert "[4, 96, 64]" in said
    assert "--exclude" in said
