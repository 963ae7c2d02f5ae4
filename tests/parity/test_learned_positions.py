"""Layers that are stored transposed, as PEFT merges them; longer tables of learned positions."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click import Command
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.parity.families.proof import base_config, graft, logits, model_of, move, save_pair
from tests.parity.families.table import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.adapter.analysis.adapter_alignment import align_adapter
from contextgraft.adapter.analysis.alignment import align as align_models
from contextgraft.adapter.analysis.model_triple import open_triple
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.cli.commands import align, extract, merge, verify
from contextgraft.errors import ContextgraftError
from contextgraft.formats.sidecar import identity

TABLES = {"gpt2": "transformer.wpe.weight", "opt": "model.decoder.embed_positions.weight"}


def run(command: Command, *words: object) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(done.exception, ContextgraftError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return ""


def opened(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def saved(folder: Path) -> None:
    torch.manual_seed(0)
    model = model_of(base_config("gpt2", FAMILIES["gpt2"]))
    move(model)
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=["gpt2", pytest.param("opt", marks=pytest.mark.slow)])
def longer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A base, a donor with more positions, the adapter and the graft."""
    root = tmp_path_factory.mktemp("longer")
    assert save_pair(base_config(request.param, FAMILIES[request.param]), {}, "theta", root)
    assert graft(root, tied=True) == ""
    return request.param, root


def test_a_longer_table_is_the_donors(longer: tuple[str, Path]) -> None:
    name, root = longer
    tables = [load_file(root / side / "model.safetensors")[TABLES[name]] for side in ("donor", "graft")]
    assert tables[0].shape == tables[1].shape
    assert (tables[0] - tables[1]).abs().max() < 1e-5
    configs = [AutoConfig.from_pretrained(root / side).to_dict() for side in ("donor", "graft")]
    known = configs[0].keys() - {"_name_or_path"}
    assert {key: configs[1][key] for key in known} == {key: configs[0][key] for key in known}
    pair = ["--base", root / "base", "--donor", root / "donor"]
    adapter = root / "adapter/r512"
    assert run(verify.command, adapter, *pair) == ""
    assert run(verify.command, root / "graft", "--target", root / "base", "--adapter", adapter) == ""


def test_an_alignment_identifies_a_target_with_a_longer_table(longer: tuple[str, Path]) -> None:
    _, root = longer
    found = align_adapter(open_adapter(root / "adapter/r512"), root / "base", root / "donor")
    assert found.models["target"]["digest"] == identity(open_model(root / "donor"))["digest"]
    expected = align_models(open_triple(root / "base", root / "donor", root / "donor"))
    assert found.models["target"] == expected.models["target"]
    assert TABLES[longer[0]] in {tensor.name for tensor in found.tensors}


def test_a_fine_tune_keeps_what_it_changed_of_the_table(longer: tuple[str, Path], tmp_path: Path) -> None:
    name, root = longer
    tune = opened(root / "base")
    move(tune)
    tune.save_pretrained(tmp_path / "tune")
    merged = ["--adapter", root / "adapter/r512", "--target", tmp_path / "tune", "--out", tmp_path / "graft"]
    assert run(merge.command, *merged) == ""
    folders = {
        "base": root / "base",
        "donor": root / "donor",
        "tune": tmp_path / "tune",
        "graft": tmp_path / "graft",
    }
    table = {side: load_file(path / "model.safetensors")[TABLES[name]] for side, path in folders.items()}
    known = len(table["base"])
    expected = torch.cat([table["tune"] + table["donor"][:known] - table["base"], table["donor"][known:]])
    assert (table["graft"] - expected).abs().max() < 1e-5
    assert logits(tmp_path / "graft", 300).isfinite().all()
    models = ["--base", root / "base", "--donor", root / "donor", "--target", tmp_path / "tune"]
    assert run(align.command, *models, "--out", tmp_path / "align.parquet") == ""


@pytest.mark.parametrize(
    ("options", "said"), [(["--scale", "0"], "more"), (["--scale", "0.5"], "expected scale 1")]
)
def test_a_table_that_cannot_become_longer(
    options: list[str], said: str, longer: tuple[str, Path], tmp_path: Path
) -> None:
    root = longer[1]
    merged = ["--adapter", root / "adapter/r512", "--target", root / "base", "--out", tmp_path / "graft"]
    assert said in run(merge.command, *merged, *options)
    assert not (tmp_path / "graft").exists()


def test_targets_and_donors_with_other_tables(longer: tuple[str, Path], tmp_path: Path) -> None:
    root = longer[1]
    merged = ["--adapter", root / "adapter/r512", "--target", root / "donor", "--out", tmp_path / "graft"]
    assert "learned positions" in run(merge.command, *merged)
    shorter = ["--base", root / "donor", "--donor", root / "base", "--rank", "4", "--out", tmp_path / "out"]
    assert "as many positions as the base, or more" in run(extract.command, *shorter)
    kept = ["--adapter", root / "adapter/r512", "--target", root / "base", "--out", tmp_path / "graft"]
    assert "longer context" not in run(merge.command, *kept)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3, "target_modules": ["c_attn", "c_proj", "c_fc"]},
        {"rank_pattern": {"c_fc": 2}, "bias": "none", "target_modules": "all-linear"},
    ],
)
def test_conv1d_merges_as_in_peft(more: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path / "base")
    settings = {"r": 3, "target_modules": ["c_attn"], "init_lora_weights": False, **more}
    get_peft_model(opened(tmp_path / "base"), LoraConfig(fan_in_fan_out=True, **settings)).save_pretrained(
        tmp_path / "adapter"
    )
    target = ["--target", tmp_path / "base", "--keep-rope", "--out", tmp_path / "graft"]
    assert run(merge.command, "--adapter", tmp_path / "adapter", *target) == ""
    merged = PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "peft")
    ours, theirs = logits(tmp_path / "graft", 40), logits(tmp_path / "peft", 40)
    assert (theirs - logits(tmp_path / "base", 40)).abs().max() > 0.01
    assert (ours - theirs).abs().max() < 1e-4


def test_dora_of_conv1d_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    config = LoraConfig(
        fan_in_fan_out=True, r=3, use_dora=True, target_modules=["c_fc"], init_lora_weights=False
    )
    get_peft_model(opened(tmp_path / "base"), config).save_pretrained(tmp_path / "adapter")
    target = ["--target", tmp_path / "base", "--keep-rope", "--out", tmp_path / "graft"]
    assert "DoRA" in run(merge.command, "--adapter", tmp_path / "adapter", *target)


def test_peft_reads_what_is_extracted_from_conv1d(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    donor = opened(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if ".h." in name and parameter.dim() == 2:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    donor.save_pretrained(tmp_path / "donor")
    pair = ["--base", tmp_path / "base", "--donor", tmp_path / "donor"]
    assert run(extract.command, *pair, "--rank", "512", "--out", tmp_path / "adapter") == ""
    loaded = PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "adapter/r512")
    shutil.rmtree(tmp_path / "base")
    loaded.merge_and_unload().save_pretrained(tmp_path / "peft")
    expected = logits(tmp_path / "donor", 40)
    assert (logits(tmp_path / "peft", 40) - expected).abs().max() < 1e-4
