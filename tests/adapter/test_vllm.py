"""The audit: what vLLM takes as it is, and every reason why it would not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.vllm import audit_for_vllm
from contextgraft.checkpoint.model_folder import open_model


def test_our_adapters_are_taken(world: Any) -> None:
    found = audit_for_vllm(open_adapter(world.adapters / "r4"))
    assert found.problems == ()
    assert found.max_lora_rank == 8
    assert "5 deltas of norms and biases act only when merged" in found.notes


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "lora_bias": ({"lora_bias": True}, "biases of lora_B (lora_bias) are not supported"),
    "bias": ({"bias": "all"}, "bias 'all' is not supported"),
}


@pytest.mark.parametrize(
    ("changes", "rank"),
    [({"rank_pattern": {"nothing": 48}}, 64), ({"rank_pattern": {"nothing": 600}}, None)],
)
def test_the_largest_rank_of_any_pattern_counts(
    world: Any, toy: SimpleNamespace, tmp_path: Path, changes: dict[str, Any], rank: int | None
) -> None:
    for name, data in toy.contents(world.adapters / "r4").items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    audit = audit_for_vllm(open_adapter(tmp_path))
    assert audit.max_lora_rank == rank
    assert bool(audit.problems) == (rank is None)


def test_a_scaling_by_pattern_is_applied(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    for name, data in toy.contents(world.adapters / "r4").items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "adapter_config.json"
    changes = {"lora_alpha": 8, "alpha_pattern": {"q_proj": 4}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    audit = audit_for_vllm(open_adapter(tmp_path))
    assert audit.problems == ()
    assert any("older vLLM may ignore them" in note for note in audit.notes)


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


def test_embeddings_under_factors_are_taken_with_a_note(
    world: Any, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """PEFT stores the embeddings next to their factors; vLLM ignores them, and uses those it serves."""
    for name, data in toy.contents(world.adapters / "r4").items():
        (tmp_path / name).write_bytes(data)
    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    prefix = "base_model.model.model.embed_tokens"
    rows, width = open_model(world.base)["model.embed_tokens.weight"].shape
    tensors[f"{prefix}.lora_embedding_A"] = torch.ones(4, rows)
    tensors[f"{prefix}.lora_embedding_B"] = torch.ones(width, 4)
    tensors[f"{prefix}.base_layer.weight"] = torch.ones(rows, width)
    save_file(tensors, weights)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"].append("embed_tokens")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    audit = audit_for_vllm(open_adapter(tmp_path))
    assert audit.problems == ()
    assert any("own copies of model.embed_tokens.weight are not loaded" in note for note in audit.notes)
