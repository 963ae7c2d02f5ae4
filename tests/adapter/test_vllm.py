"""The audit: what vLLM takes as it is, and every reason why it would not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.vllm import audit_for_vllm, describe


def test_our_adapters_are_taken(world: Any) -> None:
    found = audit_for_vllm(open_adapter(world.adapters / "r4"))
    assert found.problems == ()
    assert found.options[:2] == ("--enable-lora", "--max-lora-rank 8")
    assert '"rope_theta": 40000.0' in found.options[2]
    assert found.options[3] == "--max-model-len 1024"
    assert "5 deltas of norms and biases act only when merged" in found.notes


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "scaling": ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 4}}, "2 modules scale by another factor"),
    "bias": ({"bias": "all"}, "bias 'all' is not supported"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_it_would_get_wrong_is_said(world: Any, toy: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    changes, words = CONFIGS[kind]
    for name, data in toy.contents(world.adapters / "r4").items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert any(words in problem for problem in audit_for_vllm(open_adapter(tmp_path)).problems)


def test_other_names_of_keys_are_said(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    for name, data in toy.contents(world.adapters / "r4").items():
        (tmp_path / name).write_bytes(data)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {key.replace(".weight", ".default.weight"): tensor for key, tensor in weights.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    adapter = open_adapter(tmp_path)
    assert len(adapter.factors) == 14
    assert any("is not supported" in problem for problem in audit_for_vllm(adapter).problems)


def test_a_description_is_plain_json(world: Any) -> None:
    facts = describe(open_adapter(world.adapters / "r4"))
    assert json.loads(json.dumps(facts))["ranks"] == [4]
    assert facts["modules"] == 14
