"""Tensors under names that PEFT ignores and other readers take: merged, with a warning."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM

from contextgraft.adapter.analysis.adapter_summary import adapter_lines, describe_adapter
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.errors import CheckpointError, MismatchError

PREFIX = "base_model.model."
Q = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
EMBEDDING = "model.embed_tokens"


@pytest.fixture(scope="module")
def target(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = toy.config(tie_word_embeddings=False)
    weights = toy.weights(config, dtype=torch.float32)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0)
    return Path(toy.write(tmp_path_factory.mktemp("names") / "target", weights, config))


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(torch.arange(3, 30)[None]).logits.float()
    return out


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0])) / 4


def written(folder: Path, rename: Callable[[str], str], more: dict[str, torch.Tensor], **config: Any) -> Path:
    """An adapter of q_proj, and of `more`, under renamed keys."""
    folder.mkdir()
    tensors = dict(more)
    for module in Q:
        tensors |= {f"{module}.lora_A.weight": random(2, 64), f"{module}.lora_B.weight": random(64, 2)}
    save_file({rename(key): value for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def by_peft(target: Path, adapter: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(loaded(target), str(adapter)))


def by_transformers(target: Path, adapter: Path) -> torch.Tensor:
    model = loaded(target)
    model.load_adapter(str(adapter))
    return logits(model)


NAMES: dict[str, tuple[Callable[[str], str], bool]] = {
    "no prefix": (lambda key: key, True),
    "some without prefix": (lambda key: (PREFIX if "layers.0." in key else "") + key, True),
    "prefix twice": (lambda key: PREFIX * 2 + key, True),
    "DistributedDataParallel": (lambda key: f"module.{PREFIX}{key}", False),
    "torch.compile": (lambda key: f"_orig_mod.{PREFIX}{key}", False),
    "name of the adapter": (lambda key: PREFIX + key.replace(".weight", ".math.weight"), False),
    "no .weight": (lambda key: PREFIX + key.removesuffix(".weight"), False),
}


@pytest.mark.parametrize("kind", NAMES)
def test_what_peft_ignores_is_merged_with_a_warning(kind: str, target: Path, tmp_path: Path) -> None:
    """The reference is the same adapter under PEFT's names; `load_adapter` of transformers has more names."""
    rename, known_to_transformers = NAMES[kind]
    expected = by_peft(target, written(tmp_path / "plain", lambda key: PREFIX + key, {}))
    adapter = written(tmp_path / "adapter", rename, {})
    assert not torch.allclose(by_peft(target, adapter), expected, atol=1e-4)
    assert torch.allclose(by_transformers(target, adapter), expected, atol=1e-4) is known_to_transformers
    plan = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)
    merge(plan, tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(tmp_path / "graft")), expected, rtol=1e-5, atol=1e-4)
    (said,) = plan.warnings
    assert f"{2 if kind.startswith('some') else 4} of its 4 tensors" in said
    assert "PEFT ignores them" in said
    assert PREFIX in said
    shown = adapter_lines(describe_adapter(open_adapter(adapter)))
    assert any(line.startswith("names") and PREFIX in line for line in shown)


EMBEDDED = {f"{EMBEDDING}.lora_embedding_A": random(2, 50), f"{EMBEDDING}.lora_embedding_B": random(64, 2)}
WITH_EMBEDDINGS = {"target_modules": ["q_proj", "embed_tokens"]}
DORA = {f"{module}.lora_magnitude_vector": random(64).abs() + 0.5 for module in Q}


@pytest.mark.parametrize(
    ("end", "more", "config"),
    [
        ("", {}, {}), (".default", {}, {}),
        ("", EMBEDDED, WITH_EMBEDDINGS), (".default", EMBEDDED, WITH_EMBEDDINGS),
        ("", DORA, {"use_dora": True}), (".weight", DORA, {"use_dora": True}),
        (".default.weight", DORA, {"use_dora": True}),
    ],
)  # fmt: skip
def test_what_peft_takes_is_no_warning(
    end: str, more: dict[str, torch.Tensor], config: dict[str, Any], target: Path, tmp_path: Path
) -> None:
    name = end.removesuffix(".weight")
    adapter = written(
        tmp_path / "adapter",
        lambda key: PREFIX + (key + end if key in more else key.replace(".weight", f"{name}.weight")),
        more,
        **config,
    )
    plan = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)
    merge(plan, tmp_path / "graft")
    torch.testing.assert_close(
        logits(loaded(tmp_path / "graft")), by_peft(target, adapter), rtol=1e-5, atol=1e-4
    )
    assert not any("PEFT ignores" in said for said in plan.warnings)


@pytest.mark.parametrize("end", [".default", ".weight"])
def test_ends_of_keys_that_peft_ignores(end: str, target: Path, tmp_path: Path) -> None:
    more, config = (DORA, {"use_dora": True}) if end == ".default" else (EMBEDDED, WITH_EMBEDDINGS)
    adapter = written(
        tmp_path / "adapter", lambda key: PREFIX + key + (end if key in more else ""), more, **config
    )
    plain = written(tmp_path / "plain", lambda key: PREFIX + key, more, **config)
    assert not torch.allclose(by_peft(target, adapter), by_peft(target, plain), atol=1e-4)
    (said,) = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True).warnings
    assert "2 of its 6 tensors" in said


def test_weights_under_the_names_of_a_state_dict(target: Path, tmp_path: Path) -> None:
    stored = {"lm_head.modules_to_save.default.weight": random(50, 64)}
    adapter = written(tmp_path / "adapter", lambda key: PREFIX + key, stored, modules_to_save=["lm_head"])
    with pytest.raises(KeyError, match=r"lm_head\.weight"):
        by_peft(target, adapter)
    plan = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True)
    assert plan.changed[0] == "lm_head.weight"
    assert any(f"in place of '{PREFIX}lm_head.weight'" in said for said in plan.warnings)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_numbers_that_are_null(key: str, target: Path, tmp_path: Path) -> None:
    adapter = written(tmp_path / "adapter", lambda name: PREFIX + name, {}, **{key: None})
    with pytest.raises(TypeError):
        by_peft(target, adapter)
    with pytest.raises(CheckpointError, match=f"has no {key}"):
        open_adapter(adapter)


def test_a_module_of_another_class(target: Path, tmp_path: Path) -> None:
    more = {"score.lora_A.weight": random(2, 64), "score.lora_B.weight": random(3, 2)}
    adapter = written(
        tmp_path / "adapter", lambda name: PREFIX + name, more, target_modules=["q_proj", "score"]
    )
    with pytest.raises(MismatchError, match="another class of the model, such as a classifier"):
        plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)


def test_names_of_the_model_without_its_output_layer(target: Path, tmp_path: Path) -> None:
    """PEFT on AutoModel saves `layers.0...`, which it ignores on AutoModelForCausalLM."""
    model = AutoModel.from_pretrained(target, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(tmp_path / "adapter")
    adapter = tmp_path / "adapter"
    assert torch.allclose(by_peft(target, adapter), logits(loaded(target)), atol=1e-6)
    plan = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)
    (said,) = plan.warnings
    assert "'layers.0.self_attn.q_proj.weight' in place of 'model.layers.0.self_attn.q_proj.weight'" in said
    merge(plan, tmp_path / "graft")
    again = AutoModel.from_pretrained(target, dtype=torch.float32)
    merged = PeftModel.from_pretrained(again, str(adapter)).merge_and_unload().state_dict()
    graft = AutoModel.from_pretrained(tmp_path / "graft", dtype=torch.float32).state_dict()
    torch.testing.assert_close(graft, merged, rtol=1e-5, atol=1e-5)
