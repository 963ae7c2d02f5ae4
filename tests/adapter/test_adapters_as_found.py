"""Adapter folders as people have them: keys of raw state dicts, of several adapters, of other programs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.errors import CheckpointError, InputError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["layers.0.self_attn.q_proj"]}


@pytest.fixture(scope="module")
def target(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = toy.config()
    folder = Path(toy.write(tmp_path_factory.mktemp("found") / "target", toy.weights(config), config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """An adapter with tensors of these keys: `name` is the name of an adapter in them."""

    def make(
        *names: str, folder: str = "adapter", file: str = "adapter_model.safetensors", **more: Any
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **more}))
        tensors = {}
        for number, name in enumerate(names):
            generator = torch.Generator().manual_seed(number)
            tensors[f"{Q}.lora_A{name}.weight"] = torch.randn(2, 64, generator=generator)
            tensors[f"{Q}.lora_B{name}.weight"] = torch.randn(64, 2, generator=generator)
        save_file(tensors, path / file)
        return path

    return make


def plan(adapter: Path, target: Path) -> MergePlan:
    return plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)


@pytest.mark.parametrize("name", ["", ".default", ".math", ".my-adapter_2"])
def test_keys_with_the_name_of_an_adapter(
    name: str, adapter: Callable[..., Path], target: Path, tmp_path: Path
) -> None:
    path = adapter(name)
    merge(plan(path, target), tmp_path / "graft")
    weight = "model.layers.0.self_attn.q_proj.weight"
    before, after = (
        load_file(folder / "model.safetensors")[weight] for folder in (target, tmp_path / "graft")
    )
    factors = load_file(path / "adapter_model.safetensors")
    delta = factors[f"{Q}.lora_B{name}.weight"] @ factors[f"{Q}.lora_A{name}.weight"]
    assert torch.equal(after, (before.float() + delta).to(before.dtype))


@pytest.mark.parametrize("front", ["base_model.model.", "pretrained_model.", "module.", "model."])
def test_keys_with_more_in_front_of_pefts_prefix(
    front: str, adapter: Callable[..., Path], target: Path
) -> None:
    path = adapter("")
    factors = load_file(path / "adapter_model.safetensors")
    save_file({front + key: value for key, value in factors.items()}, path / "adapter_model.safetensors")
    assert plan(path, target).changed == ("model.layers.0.self_attn.q_proj.weight",)


def test_a_file_of_several_adapters_is_refused_by_their_names(adapter: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"several adapters.*default, math.*selected_adapters"):
        open_adapter(adapter("", ".math"))


@pytest.mark.parametrize("key", ["lora_a", "lora_up.weight"])
def test_factors_under_names_of_other_programs(key: str, adapter: Callable[..., Path]) -> None:
    path = adapter("")
    save_file({f"{Q}.{key}": torch.ones(64, 2)}, path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"otherwise than PEFT.*convert it to PEFT's format"):
        open_adapter(path)


def test_weights_under_another_name(adapter: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors.*adapters\.safetensors"):
        open_adapter(adapter("", file="adapters.safetensors"))


def test_adapters_in_folders_below_are_named(adapter: Callable[..., Path]) -> None:
    path = adapter("", folder="run/checkpoint-5")
    with pytest.raises(InputError, match=r"folders that hold one: checkpoint-5"):
        open_adapter(path.parent)


def test_dora_on_embeddings_says_what_to_do(adapter: Callable[..., Path]) -> None:
    path, embeddings = (
        adapter("", use_dora=True, target_modules=["embed_tokens"]),
        "base_model.model.model.embed_tokens",
    )
    factors = {
        f"{embeddings}.lora_embedding_A": torch.ones(2, 50),
        f"{embeddings}.lora_embedding_B": torch.ones(64, 2),
        f"{embeddings}.lora_magnitude_vector.weight": torch.ones(1, 64),
    }
    save_file(factors, path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"DoRA on the embeddings.*merge_and_unload"):
        open_adapter(path)


def test_new_tokens_without_embeddings_are_a_warning(adapter: Callable[..., Path], target: Path) -> None:
    path = adapter("")
    assert not plan(path, target).warnings
    vocabulary = {"model": {"vocab": {"a": 0, "b": 1, "<|im_end|>": 2}}}
    (path / "tokenizer.json").write_text(json.dumps(vocabulary))
    (said,) = plan(path, target).warnings
    assert "<|im_end|>" in said
    assert "no embeddings" in said


@pytest.mark.parametrize("layers", [1, 3])
def test_a_config_with_another_number_of_layer_types(
    layers: int, toy: SimpleNamespace, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """Transformers refuses such a config, and would refuse the graft's."""
    config = toy.config(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], layer_types=["full_attention"] * layers
    )
    target = Path(toy.write(tmp_path / "target", toy.weights(config), config))
    with pytest.raises(InputError, match=rf"target/config\.json.*layer_types.*\({layers}\)"):
        plan(adapter(""), target)


def test_the_digest_covers_what_decides_about_embeddings(adapter: Callable[..., Path]) -> None:
    """Two adapters that are merged otherwise are not the same, though their tensors are."""
    path = adapter("", target_modules=["q_proj", "embed_tokens"])
    plain, embeddings = open_adapter(path).digest, "base_model.model.model.embed_tokens"
    config = json.loads((path / "adapter_config.json").read_text())

    def digest(**changes: Any) -> str:
        (path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return open_adapter(path).digest

    tied = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    assert digest(**tied) == plain  # there are no embeddings
    factors = {
        f"{embeddings}.lora_embedding_A": torch.ones(2, 50),
        f"{embeddings}.lora_embedding_B": torch.ones(64, 2),
    }
    save_file(load_file(path / "adapter_model.safetensors") | factors, path / "adapter_model.safetensors")
    assert digest() == digest(**{**tied, "ensure_weight_tying": False}) != digest(**tied)
    before = digest()
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}))
    assert digest() != before
    stored = {f"{embeddings}.base_layer.weight": torch.ones(50, 64)}
    save_file(load_file(path / "adapter_model.safetensors") | stored, path / "adapter_model.safetensors")
    assert digest(alpha_pattern={"embed_tokens": 4}) != digest()
