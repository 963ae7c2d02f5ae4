"""LoRAs that PEFT itself made, of every kind it has: merged as its own merge_and_unload does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.peft_keys import renamed_keys
from contextgraft.errors import CheckpointError, InputError, MismatchError

Q = "model.layers.0.self_attn.q_proj"
LINEAR = ["q_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": LINEAR},
    "alpha": {"target_modules": LINEAR, "lora_alpha": 3},
    "rslora": {"target_modules": LINEAR, "use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 7},
        "alpha_pattern": {r"layers\.0\..*q_proj": 9},
    },
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "dora rslora": {"target_modules": LINEAR, "use_dora": True, "use_rslora": True},
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
    "lm_head": {"target_modules": [*LINEAR, "lm_head"]},
    "lora bias": {"target_modules": LINEAR, "lora_bias": True},
    "bias": {"target_modules": LINEAR, "bias": "lora_only"},
    "saved": {"target_modules": LINEAR, "modules_to_save": ["lm_head", "norm"]},
    "regular expression": {"target_modules": r".*layers\.1\..*_proj"},
    "patterns of names": {
        "target_modules": LINEAR,
        "rank_pattern": {"^model.layers.1.self_attn.q_proj": 3, r"model\.layers\.(0|1)\.mlp\..*": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj$": 9},
        "use_dora": True,
    },
    "all but some": {"target_modules": "all-linear", "exclude_modules": r".*\.(k_proj|down_proj)"},
    "one layer": {"target_modules": LINEAR, "layers_to_transform": [1], "layers_pattern": "layers"},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]},
    "tokens": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [3], "lm_head": [9]},
    },
    "orthogonal": {"target_modules": LINEAR, "init_lora_weights": "orthogonal"},
    "saved block": {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    "gradient projection": {"target_modules": LINEAR, "velora_config": VeloraConfig()},
    "samples of training": {"target_modules": LINEAR, "monteclora_config": MontecloraConfig()},
}
REPLACING = ("bias", "saved", "tokens", "saved block")


@pytest.fixture(scope="module")
def target(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy in float32 with biases on all projections and a head of its own."""
    config = toy.config(tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    weights = toy.weights(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(4)
    for name, tensor in list(weights.items()):
        if name.endswith("_proj.weight"):
            weights[name.replace("weight", "bias")] = torch.randn(len(tensor), generator=generator)
    weights["lm_head.weight"] = torch.randn(weights["model.embed_tokens.weight"].shape, generator=generator)
    return Path(toy.write(tmp_path_factory.mktemp("any") / "target", weights, config))


def trained(target: Path, out: Path, seed: int = 0, **config: Any) -> Path:
    """An adapter that PEFT saved, every trainable tensor of it moved."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapted.save_pretrained(str(out), save_embedding_layers=False)
    return out


def by_peft(target: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    merged: dict[str, torch.Tensor] = (
        PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    )
    return merged


def ours(target: Path, out: Path, *scaled: ScaledAdapter, replace: bool = False) -> dict[str, torch.Tensor]:
    merge(plan_merge(scaled, target, keep_rope=True, replace_modules=replace), out)
    weights: dict[str, torch.Tensor] = load_file(out / "model.safetensors")
    return weights


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_as_peft_merges_it(target: Path, tmp_path: Path, kind: str) -> None:
    adapter = trained(target, tmp_path / "adapter", **KINDS[kind])
    assert renamed_keys(load_file(adapter / "adapter_model.safetensors")) == {}
    expected = by_peft(target, adapter)
    before = load_file(target / "model.safetensors")
    replace = kind in REPLACING
    found = ours(target, tmp_path / "graft", ScaledAdapter(open_adapter(adapter)), replace=replace)
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert moved == {name for name in before if not torch.equal(expected[name], before[name])}
    assert moved
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", REPLACING)
def test_what_would_overwrite_must_be_allowed(target: Path, tmp_path: Path, kind: str) -> None:
    adapter = open_adapter(trained(target, tmp_path / "adapter", **KINDS[kind]))
    with pytest.raises(MismatchError, match=r"would overwrite .* --replace-modules"):
        plan_merge([ScaledAdapter(adapter)], target, keep_rope=True)
    allowed = plan_merge([ScaledAdapter(adapter)], target, keep_rope=True, replace_modules=True)
    assert any("will be overwritten" in warning for warning in allowed.warnings)
    assert set(allowed.replaced) == set(adapter.replaced) != set()


def test_a_bias_that_the_target_lacks_is_named(toy: SimpleNamespace, tmp_path: Path) -> None:
    target = toy.write(tmp_path / "target", toy.weights(toy.config()), toy.config())
    adapter = open_adapter(trained(target, tmp_path / "adapter", target_modules=["q_proj"], lora_bias=True))
    with pytest.raises(MismatchError, match=r"adds a bias to .*q_proj' \(lora_bias\).*load it at run time"):
        plan_merge([ScaledAdapter(adapter)], target, keep_rope=True)


def test_several_adapters_add_up_by_their_weights(target: Path, tmp_path: Path) -> None:
    first = trained(target, tmp_path / "first", 1, target_modules=["q_proj", "embed_tokens"])
    second = trained(target, tmp_path / "second", 2, target_modules=LINEAR, use_dora=True)
    before = load_file(target / "model.safetensors")
    alone = [by_peft(target, adapter) for adapter in (first, second)]
    scaled = ScaledAdapter(open_adapter(first), 0.5), ScaledAdapter(open_adapter(second), -2.0)
    found = ours(target, tmp_path / "graft", *scaled)
    for name, old in before.items():
        expected = old + 0.5 * (alone[0][name] - old) - 2 * (alone[1][name] - old)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5, msg=name)


def test_one_may_not_change_what_another_overwrites(target: Path, tmp_path: Path) -> None:
    saved = open_adapter(trained(target, tmp_path / "a", **KINDS["saved"]))
    head = open_adapter(trained(target, tmp_path / "b", **KINDS["lm_head"]))
    with pytest.raises(MismatchError, match=r"overwritten and changed.*merge first the adapter"):
        plan_merge([ScaledAdapter(saved), ScaledAdapter(head)], target, keep_rope=True, replace_modules=True)
    ours(target, tmp_path / "first", ScaledAdapter(saved), replace=True)
    found = ours(tmp_path / "first", tmp_path / "both", ScaledAdapter(head))["lm_head.weight"]
    before = load_file(target / "model.safetensors")["lm_head.weight"]
    alone = [by_peft(target, adapter.path)["lm_head.weight"] for adapter in (saved, head)]
    torch.testing.assert_close(found, alone[0] + alone[1] - before, rtol=1e-5, atol=1e-5)


def test_rope_must_come_from_somewhere(target: Path, world: Any, tmp_path: Path) -> None:
    adapter = open_adapter(trained(target, tmp_path / "adapter", **KINDS["plain"]))
    with pytest.raises(InputError, match="--rope-from"):
        plan_merge([ScaledAdapter(adapter)], target)
    own = open_adapter(world.adapters / "r4")
    assert own.rope is not None
    given = plan_merge([ScaledAdapter(adapter)], target, rope=own.rope)
    assert (given.rope, given.rope_from) == (own.rope, "given")
    kept = plan_merge([ScaledAdapter(adapter)], target, keep_rope=True)
    assert (kept.rope.max_positions, kept.rope_from) == (128, "target")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "target_parameters": (
        {"target_parameters": ["mlp.experts.down_proj"]},
        "mlp.experts.down_proj.*target_parameters",
    ),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights"),
    "alpha": ({"lora_alpha": float("inf")}, "not finite"),
    "rank": ({"rank_pattern": {"q_proj": 0}}, "a rank below 1"),
    "arrow": ({"arrow_config": {"top_k": 2}}, "arrow_config.*chooses among other adapters"),
    "dora without": ({"use_dora": True}, "disagree about DoRA"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_merged_says_why(target: Path, tmp_path: Path, kind: str) -> None:
    changes, words = REFUSED[kind]
    adapter = trained(target, tmp_path / "adapter", target_modules=["k_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_adapter(adapter)
    assert "\n" not in str(caught.value)


@pytest.fixture
def other(target: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the target with another tokenizer."""

    def make(tokens: list[str]) -> Path:
        path = Path(shutil.copytree(target, tmp_path / "other"))
        vocabulary = {token: row for row, token in enumerate(tokens)}
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
        return path

    return make


def test_embeddings_follow_their_tokens(target: Path, tmp_path: Path, other: Callable[..., Path]) -> None:
    adapter = trained(target, tmp_path / "adapter", target_modules=["embed_tokens", "lm_head"])
    tokens = [f"t{row}" for row in range(50)]
    known = {"model": {"vocab": {token: row for row, token in enumerate(tokens)}}, "added_tokens": []}
    (adapter / "tokenizer.json").write_text(json.dumps(known))
    delta = {
        name: tensor - load_file(target / "model.safetensors")[name]
        for name, tensor in by_peft(target, adapter).items()
    }
    moved = [*reversed(tokens[:48]), "new", "newer"]
    place = other(moved)
    found = ours(place, tmp_path / "graft", ScaledAdapter(open_adapter(adapter)))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        before = load_file(place / "model.safetensors")[name]
        assert torch.equal(found[name][48:], before[48:])  # its own tokens are its own
        torch.testing.assert_close(
            found[name][:48] - before[:48], delta[name][:48].flip(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_layers_that_are_stored_transposed(tmp_path: Path, prefix: str) -> None:
    """GPT-2 with its names at run time, and with those of the hub."""
    sizes: dict[str, Any] = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes))
    model.save_pretrained(tmp_path / "target")
    path = tmp_path / "target/model.safetensors"
    stored = {key.replace("transformer.", prefix): tensor for key, tensor in load_file(path).items()}
    save_file(stored, path, {"format": "pt"})
    adapter = trained(tmp_path / "target", tmp_path / "adapter", target_modules=["c_attn", "c_proj", "c_fc"])
    assert json.loads((adapter / "adapter_config.json").read_text())["fan_in_fan_out"]
    expected = by_peft(tmp_path / "target", adapter)
    found = ours(tmp_path / "target", tmp_path / "graft", ScaledAdapter(open_adapter(adapter)))
    assert found.keys() == stored.keys()
    for name, tensor in expected.items():
        if name.endswith("weight") and name != "lm_head.weight":
            plain = name.replace("transformer.", prefix)
            torch.testing.assert_close(found[plain], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_dora_of_transposed_layers_is_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes)).save_pretrained(tmp_path / "base")
    adapter = trained(tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn"], use_dora=True)
    with pytest.raises(MismatchError, match="transposed"):
        plan_merge([ScaledAdapter(open_adapter(adapter))], tmp_path / "base", keep_rope=True)
