"""Experts that the adapter has stacked and the target one by one, and the reverse: as PEFT computes it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.errors import ContextgraftError

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_experts_per_tok": 2,
}  # fmt: skip
CLASSES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},  # w1 and w3 are concatenated
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},  # gate_proj and up_proj
}
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(IDS).logits.float()
    return out


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def move(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture(scope="module", params=CLASSES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its experts one by one, the same stacked, and a donor."""
    root = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(request.param, **SIZES, **CLASSES[request.param]), dtype=torch.float32
    )
    model.save_pretrained(root / "one by one")
    model.save_pretrained(root / "stacked", save_original_format=False)
    move(model, 2)
    model.save_pretrained(root / "donor")
    names = {kind: load_file(root / kind / "model.safetensors") for kind in ("one by one", "stacked")}
    assert any(".experts.3." in name for name in names["one by one"])
    assert any(name.endswith("experts.gate_up_proj") for name in names["stacked"])
    return root


def grafted(adapter: Path, target: Path, out: Path) -> Path:
    """The graft at `out`, verified."""
    merge(plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True), out)
    failed = [check for check in verify(out, target=target, adapters=[adapter]) if not check.holds]
    assert not failed
    return out


@pytest.mark.parametrize("kind", ["one by one", "stacked"])
def test_parameters_that_peft_trained(kind: str, folder: Path, tmp_path: Path) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], target_parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(loaded(folder / kind), config)
    move(adapted, 1)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    graft = grafted(tmp_path / "adapter", folder / kind, tmp_path / "graft")
    expected = logits(adapted)
    assert (expected - logits(loaded(folder / kind))).abs().max() > 0.01
    torch.testing.assert_close(logits(loaded(graft)), expected, rtol=1e-4, atol=1e-5)
    stored = load_file(graft / "model.safetensors").keys()
    assert stored == load_file(folder / kind / "model.safetensors").keys()


@pytest.mark.parametrize("kind", ["one by one", "stacked"])
def test_experts_that_were_extracted_one_by_one(kind: str, folder: Path, tmp_path: Path) -> None:
    extract(open_pair(folder / "one by one", folder / "donor"), [RankSpec(32)], tmp_path / "adapters")
    adapter = tmp_path / "adapters" / "r32"
    keys = load_file(adapter / "adapter_model.safetensors")
    assert any(".experts.3." in key for key in keys)
    graft = grafted(adapter, folder / kind, tmp_path / "graft")
    expected = logits(PeftModel.from_pretrained(loaded(folder / kind), adapter))
    torch.testing.assert_close(logits(loaded(graft)), expected, rtol=1e-4, atol=1e-5)
    assert "rope_parameters" in json.loads((graft / "config.json").read_text())


def test_a_base_weight_stored_with_a_single_experts_factors_does_not_replace_part_of_a_stack(
    folder: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(loaded(folder / "one by one"), config).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    name = next(n for n in load_file(folder / "one by one/model.safetensors") if ".experts.0." in n)
    shape = load_file(folder / "one by one/model.safetensors")[name].shape
    module = f"base_model.model.{name.removesuffix('.weight')}"
    more = {
        f"{module}.lora_A.weight": torch.ones(2, shape[1]),
        f"{module}.lora_B.weight": torch.ones(shape[0], 2),
        f"{module}.base_layer.weight": torch.full(shape, 7.0),
    }
    save_file(load_file(weights) | more, weights)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["target_modules"].append(name.removesuffix(".weight"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ContextgraftError):
        plan_merge([ScaledAdapter(open_adapter(tmp_path))], folder / "stacked", keep_rope=True)
