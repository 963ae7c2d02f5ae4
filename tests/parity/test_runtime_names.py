"""Models whose stored names differ from those at run time: PEFT's adapters merge, and ours load in PEFT."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.parity.families.proof import (
    TOWERS,
    auto_class,
    base_config,
    graft,
    logits,
    model_of,
    move,
    verified,
)
from tests.parity.families.table import FAMILIES
from tests.parity.test_parameters import adapted, base_of
from transformers import AutoConfig

from contextgraft.adapter.lora.reader_limits import reader_limits
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.cli.commands import extract, merge
from contextgraft.formats.architecture import architecture
from contextgraft.formats.model import runtime_names
from contextgraft.formats.model.runtime_names import peft_names
from contextgraft.formats.tensor_names import TensorRole, tensor_role

Rename = Callable[[str], str]
LENGTH = 40
TOLERANCE = 1e-4


def as_saved(name: str) -> str:
    """The names that save_pretrained writes."""
    return name


def without_prefix(name: str) -> str:
    """The names of GPT-2 and Bloom on the hub."""
    return name.removeprefix("transformer.")


def tower_inside(name: str) -> str:
    """The names of vision-language models since transformers 4.52."""
    name = name.removeprefix("language_model.") if "lm_head" in name else name
    name = name.replace("language_model.model.", "language_model.")
    return name if name.startswith(("model.", "lm_head")) else f"model.{name}"


QUICK: list[tuple[str, Rename]] = [
    ("qwen2_5_vl", as_saved),  # model.layers for model.language_model.layers
    ("gemma3", as_saved),  # language_model.model.layers
    ("bloom", without_prefix),  # h.0 for transformer.h.0; tied embeddings of another name
    ("deepseek_v3", as_saved),  # dense layers with the names of experts
]
SLOW: list[tuple[str, Rename]] = [
    ("qwen2_vl", as_saved), ("qwen3_vl", as_saved), ("llava", as_saved), ("llava", tower_inside),
    ("llava_next", as_saved), ("llava_onevision", as_saved), ("gemma3", tower_inside),
    ("qwen2_5_vl", tower_inside), ("mistral3", as_saved), ("internvl", as_saved), ("paligemma", as_saved),
    ("aya_vision", as_saved), ("glm4v", as_saved), ("llama4", as_saved), ("qwen3_5", as_saved),
    ("lfm2_vl", as_saved), ("bloom", as_saved), ("falcon", as_saved), ("gpt_neox", as_saved),
    ("gptj", as_saved), ("mpt", as_saved), ("opt", as_saved), ("zamba2", as_saved), ("mixtral", as_saved),
    ("qwen3_moe", as_saved), ("dots1", as_saved), ("hunyuan_v1_moe", as_saved), ("minimax_m2", as_saved),
]  # fmt: skip
CASES = [pytest.param(*case, id=f"{case[0]} {case[1].__name__}") for case in QUICK] + [
    pytest.param(*case, id=f"{case[0]} {case[1].__name__}", marks=pytest.mark.slow) for case in SLOW
]


def open_folder(folder: Path) -> Any:
    """The whole model, as transformers opens it."""
    return auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=torch.float32).eval()


def save_base(name: str, rename: Rename, folder: Path) -> None:
    """Save a random model under other names, which transformers loads completely."""
    torch.manual_seed(0)
    model = model_of(base_config(name, FAMILIES[name]))
    move(model)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {rename(key): tensor for key, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers of the language model by their names at run time."""
    ends = {id(model.get_output_embeddings())}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and id(module) not in ends
        and not any(tower in name for tower in TOWERS)
    }


def computed(model: Any) -> torch.Tensor:
    """Logits of some tokens."""
    tokens = torch.randint(3, 60, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(tokens, use_cache=False).logits
    return found


def run(command: Any, *words: object) -> None:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("name", "rename"), CASES)
def test_an_adapter_that_peft_trained(name: str, rename: Rename, tmp_path: Path) -> None:
    save_base(name, rename, tmp_path / "base")
    model = open_folder(tmp_path / "base")
    attention = [layer for layer in linear_layers(model) if ".experts" not in layer and "mlp" not in layer]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=attention))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    before = load_file(tmp_path / "base/model.safetensors")
    run(
        merge.command, "--adapter", tmp_path / "adapter", "--target", tmp_path / "base",
        "--out", tmp_path / "graft", "--keep-rope",
    )  # fmt: skip
    assert float((computed(adapted) - logits(tmp_path / "graft", LENGTH)).abs().max()) < TOLERANCE
    after = load_file(tmp_path / "graft/model.safetensors")
    assert after.keys() == before.keys()
    towers = [key for key in before if any(tower in key for tower in TOWERS)]
    assert all(torch.equal(before[key], after[key]) for key in towers)


@pytest.mark.parametrize(("name", "rename"), CASES)
def test_an_extracted_adapter_in_peft(name: str, rename: Rename, tmp_path: Path) -> None:
    """Linear layers and embeddings changed: PEFT computes the donor's logits, and so does the graft."""
    save_base(name, rename, tmp_path / "base")
    donor = open_folder(tmp_path / "base")
    generator = torch.Generator().manual_seed(4)
    tied = donor.get_input_embeddings().weight is donor.get_output_embeddings().weight
    ends = [donor.get_input_embeddings(), *([] if tied else [donor.get_output_embeddings()])]
    with torch.no_grad():
        for module in (*linear_layers(donor).values(), *ends):
            module.weight.add_(torch.randn(module.weight.shape, generator=generator) * 0.02)
    donor.save_pretrained(tmp_path / "donor")
    expected = computed(donor)
    assert not graft(tmp_path, tied=tied)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(open_folder(tmp_path / "base"), tmp_path / "adapter/r512")
    missing = [str(line.message) for line in said if "missing adapter keys" in str(line.message)]
    assert all("lm_head" in line for line in missing)  # PEFT ties it instead
    assert float((expected - computed(adapted)).abs().max()) < TOLERANCE
    assert float((expected - logits(tmp_path / "graft", LENGTH)).abs().max()) < TOLERANCE
    verified(tmp_path)


def restore_limited(root: Path) -> None:
    """Give the donor the base's tensors that have no factors, or factors that PEFT is said not to apply."""
    model = open_model(root / "base")
    donor, base = (load_file(root / name / "model.safetensors") for name in ("donor", "base"))
    for name, info in model.tensors.items():
        has_factors = tensor_role(info, model.path) is TensorRole.LINEAR
        if not has_factors or reader_limits(architecture(model.config), [name]):
            donor[name] = base[name]
    save_file(donor, root / "donor/model.safetensors", {"format": "pt"})


# kimi_linear: modules of a layer have other names in memory
ENERGIES = [
    pytest.param(name, marks=[] if name == "kimi_linear" else [pytest.mark.slow]) for name in FAMILIES
]


@pytest.mark.parametrize("name", ENERGIES)
def test_ranks_that_differ_by_module(name: str, tmp_path: Path) -> None:
    """PEFT computes what the graft does, but for modules of which a limit says that it does not."""
    model = base_of(name, tmp_path)
    generator = torch.Generator().manual_seed(4)
    weights = [parameter for key, parameter in model.named_parameters() if key in adapted(model)]
    with torch.no_grad():
        for number, weight in enumerate(weights):
            left = torch.randn(*weight.shape[:-1], 1 + number % 3, generator=generator)
            right = torch.randn(*weight.shape[:-2], left.shape[-1], weight.shape[-1], generator=generator)
            weight.add_(left @ right * 0.02)
    model.save_pretrained(tmp_path / "donor")
    restore_limited(tmp_path)
    pair = ["--base", tmp_path / "base", "--donor", tmp_path / "donor"]
    run(extract.command, *pair, "--energy", "0.9999", "--out", tmp_path / "adapter")
    (adapter,) = (tmp_path / "adapter").iterdir()
    run(merge.command, "--adapter", adapter, "--target", tmp_path / "base", "--out", tmp_path / "graft")
    loaded = PeftModel.from_pretrained(open_folder(tmp_path / "base"), adapter)
    assert float((computed(loaded) - computed(open_folder(tmp_path / "graft"))).abs().max()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_names_that_no_class_changes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the names alone decide, transformers' class gives the same ones."""
    config = base_config(name, FAMILIES[name])
    model_of(config).save_pretrained(tmp_path)
    stored = [key for file in tmp_path.glob("*.safetensors") for key in load_file(file)]
    given = json.loads((tmp_path / "config.json").read_text())
    names = peft_names(given, stored)
    monkeypatch.setattr(runtime_names, "_are_unchanged", lambda *_: False)
    assert names == peft_names(given, stored)


def test_labels_in_a_config_are_no_reason_to_build_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the classes of models takes longer than extracting several layers."""
    monkeypatch.setattr(runtime_names, "runtime_model", pytest.fail)
    stored = ["lm_head.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
    config = {"model_type": "llama", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    assert peft_names(config, stored) == {name: name for name in stored}
