"""What PEFT makes of our adapters: it loads them, and its own merge agrees with ours to one rounding."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge

EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("rank", [4, 48])
def test_parity_with_merge_and_unload(
    build: Callable[..., Any], tmp_path: Path, dtype: torch.dtype, rank: int
) -> None:
    world = build(tmp_path, dtype=dtype)
    extract(open_pair(world.base, world.donor), [RankSpec(rank)], world.adapters)
    folder = world.adapters / f"r{rank}"
    merge(plan_merge([ScaledAdapter(open_adapter(folder))], world.target), tmp_path / "graft")
    ours = load_file(tmp_path / "graft" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(world.target, dtype=dtype)
    loaded = PeftModel.from_pretrained(model, folder)
    factors = load_file(folder / "adapter_model.safetensors")
    for key, tensor in factors.items():
        inside = loaded.state_dict()[key.replace(".weight", ".default.weight")]
        assert torch.equal(inside, tensor.to(inside.dtype))
    theirs = loaded.merge_and_unload().state_dict()
    modules = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in factors}
    assert len(modules) == 14
    for name in (f"{module}.weight" for module in modules):
        before = world.weights["target"][name].float()
        tolerance = EPS[dtype] * (before.abs() + (ours[name].float() - before).abs()) + 1e-6
        assert ((ours[name].float() - theirs[name].float()).abs() <= tolerance).all(), name


def test_transformers_loads_the_graft_with_the_new_rope(world: Any, tmp_path: Path) -> None:
    merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target), tmp_path / "graft")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "graft")
    assert model.config.rope_parameters == {"rope_theta": 4e4, "rope_type": "default"}
    assert model.config.max_position_embeddings == 1024
    assert model.config.vocab_size == 56
    assert model(torch.arange(10)[None]).logits.isfinite().all()


def test_target_modules_are_short_names(world: Any) -> None:
    config = json.loads((world.adapters / "r4" / "adapter_config.json").read_text())
    assert config["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 4, {})
