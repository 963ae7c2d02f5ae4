"""Modules that an adapter's config selects: PEFT's own choice, and its logits where the file has others."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.analysis.adapter_summary import adapter_lines, describe_adapter
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.errors import CheckpointError, MismatchError

MODULES = (
    *(f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1, 11) for p in "qv"), "model.layers.1.mlp.up_proj",
    "vision.blocks.1.attn.q_proj", "transformer.h.1.attn.c_attn", "model.layers.1.mlp.experts.11.q_proj",
    "model.embed_tokens", "lm_head", "q_proj",
)  # fmt: skip
QV = ["q_proj", "v_proj"]
Q, V = (f"model.layers.0.self_attn.{name}" for name in QV)
SELECTIONS: list[dict[str, Any]] = [
    {"target_modules": QV},
    {"target_modules": ["proj", "layers.1.self_attn.q_proj", "lm_head"]},
    {"target_modules": r".*\.[qv]_proj"},
    {"target_modules": r"(?i).*SELF_attn.*"},
    {"target_modules": r"model\.layers\.1"},
    {"target_modules": QV, "layers_to_transform": [1, 11]},
    {"target_modules": [*QV, "model.layers.0.self_attn.q_proj"], "layers_to_transform": 1},
    {"target_modules": [*QV, "c_attn"], "layers_to_transform": [1], "layers_pattern": "h"},
    {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": QV, "exclude_modules": ["v_proj", "blocks.1.attn.q_proj"]},
    {"target_modules": QV, "exclude_modules": r".*\.1\..*"},
    {"target_modules": [*QV, "lm_head"], "modules_to_save": ["lm_head", "self_attn"]},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda selection: json.dumps(selection)[:80])
def test_the_selection_is_pefts(selection: dict[str, Any]) -> None:
    ours, theirs = LoraConfig(**selection).selection, PeftConfig(**selection)
    ours.check()
    for module in MODULES:
        chosen = check_target_module_exists(theirs, module)
        assert ours.has_factors(module) is (bool(chosen) and not isinstance(chosen, _ExcludedModule)), module


@pytest.mark.parametrize(
    "selection",
    [
        {"target_modules": "(q_proj"}, {"target_modules": QV, "exclude_modules": "*"},
        {"target_modules": r".*q_proj", "layers_to_transform": [1]},
        {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "(a+)+"},
        {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": ["layers"] * 101},
        {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "a" * 10_001},
    ],
    ids=lambda selection: str(selection)[:100],
)  # fmt: skip
def test_a_selection_that_cannot_be_used_is_refused(selection: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        LoraConfig(**selection).selection.check()


def test_all_linear_is_without_both_ends() -> None:
    selection = LoraConfig(target_modules="all-linear").selection
    chosen = [module for module in MODULES if selection.has_factors(module)]
    assert chosen == [module for module in MODULES if module not in ("model.embed_tokens", "lm_head")]


def written(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file({f"base_model.model.{key}": value for key, value in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config})
    )
    return folder


def factors(toy_model: Any, *modules: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for module in modules:
        rows, columns = toy_model.get_submodule(module).weight.shape
        made[f"{module}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        made[f"{module}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    return made


def planned(adapter: Path, target: Path) -> MergePlan:
    return plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(torch.arange(3, 30)[None]).logits.float()
    return out


@pytest.fixture(scope="module")
def target(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = toy.config()
    weights = toy.weights(config, dtype=torch.float32)
    return Path(toy.write(tmp_path_factory.mktemp("selection") / "target", weights, config))


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    "selection",
    [
        {"target_modules": ["q_proj"]}, {"target_modules": QV, "exclude_modules": r".*v_proj"},
        {"target_modules": [*QV, "k_proj"], "exclude_modules": ["v_proj"],  # k_proj has no factors: no change
         "rank_pattern": {"gate_proj": 7}, "alpha_pattern": {"layers.7.*": 9.0}},
    ],
    ids=["list", "pattern", "without factors"],
)  # fmt: skip
def test_factors_of_other_modules_are_ignored_with_a_warning(
    selection: dict[str, Any], target: Path, tmp_path: Path
) -> None:
    model = loaded(target)
    adapter = written(tmp_path / "adapter", factors(model, Q, V), **selection)
    plan = planned(adapter, target)
    merge(plan, tmp_path / "graft")
    expected = logits(PeftModel.from_pretrained(model, str(adapter)))
    torch.testing.assert_close(logits(loaded(tmp_path / "graft")), expected, rtol=1e-5, atol=1e-4)
    assert plan.changed == (f"{Q}.weight",)
    (said,) = (line for line in plan.warnings if "does not select" in line)
    assert V in said
    assert Q not in said
    facts = describe_adapter(open_adapter(adapter))
    assert facts["ignored"] == [V]
    assert V in facts["vllm"]["problems"][0]
    assert any(line.startswith("ignored") and V in line for line in adapter_lines(facts))


def test_a_config_that_selects_nothing_of_the_file_is_refused(target: Path, tmp_path: Path) -> None:
    adapter = written(tmp_path / "adapter", factors(loaded(target), Q), target_modules=["c_attn"])
    with pytest.raises(CheckpointError, match=rf"selects none of the modules.*{Q}.*c_attn.*correct target"):
        open_adapter(adapter)


@pytest.mark.parametrize("end", ["model.embed_tokens", "lm_head"])
def test_one_saved_end_is_not_tied(end: str, target: Path, tmp_path: Path) -> None:
    """PEFT wants the weights of both ends in the file, and raises KeyError."""
    model = loaded(target)
    saved = {f"{end}.weight": torch.randn(model.lm_head.weight.shape)}
    adapter = written(
        tmp_path / "adapter", {**factors(model, Q), **saved}, target_modules=["q_proj"],
        modules_to_save=[end.rpartition(".")[2]], ensure_weight_tying=True,
    )  # fmt: skip
    with pytest.raises(KeyError):
        PeftModel.from_pretrained(model, str(adapter))
    with pytest.raises(MismatchError, match=r"ensure_weight_tying.*both ends.*alone.*untied embeddings"):
        planned(adapter, target)


@pytest.mark.parametrize("key", ["modules_to_save", "target_parameters"])
def test_a_list_that_would_be_compared_for_hours(tmp_path: Path, key: str) -> None:
    factors = {f"{Q}.lora_A.weight": torch.ones(2, 4), f"{Q}.lora_B.weight": torch.ones(4, 2)}
    many = [f"absent{number}" for number in range(10_001)]
    with pytest.raises(CheckpointError, match=f"too many {key}; expected at most 10,000; received 10,001"):
        open_adapter(written(tmp_path / "many", factors, **{"target_modules": QV, key: many}))


def test_an_error_is_short_whatever_the_file_holds() -> None:
    error = CheckpointError("a" * 10_000, path="b" * 10_000, expected="c" * 10_000, received="d" * 10_000)
    assert len(str(error)) < 5_000
