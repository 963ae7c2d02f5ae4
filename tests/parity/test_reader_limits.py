"""What PEFT at run time does not apply of an adapter is what the list of limits says, and nothing else.

The donor of a case changes the modules of a limit, and some others that PEFT applies.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from tests.parity.families.table import FAMILIES
from tests.parity.test_parameters import adapted, base_of, logits, opened
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from contextgraft.adapter.lora.reader_limits import (
    FAILS,
    LIMITS,
    NO_EFFECT,
    NOT_LOADED,
    STACKED_IN_MEMORY,
    reader_limits,
)
from contextgraft.cli.commands import extract, inspect, merge

EXPERTS = r"\.experts\.(gate_up|down)_proj$"
MAMBA = {"falcon_h1": "mamba", "jamba": "mamba", "mamba with a length": "mixer"}
CASES = {  # by family and name in memory
    **{(n, EXPERTS): NO_EFFECT for n in ("qwen2_moe", "jamba", "phimoe", "qwen3_5_moe", "ernie4_5_vl_moe")},
    ("phimoe", r"\.mlp\.router\."): NO_EFFECT,
    ("qwen2_moe", r"\.mlp\.gate\."): NOT_LOADED,
    ("jamba", r"\.router\."): NOT_LOADED,
    ("ernie4_5_vl_moe", r"\.text_moe\.gate\."): NOT_LOADED,
    **{(name, r"\.mlp\.gate\."): NOT_LOADED for name in ("kimi_linear", "qwen3_5_moe")},
    ("nemotron_h", r"\.mixer\.out_proj\."): NOT_LOADED,
    **{(name, rf"\.{MAMBA[name]}\.out_proj\."): NOT_LOADED for name in ("falcon_h1", "mamba with a length")},
    **{(name, rf"\.{MAMBA[name]}\.dt_proj\."): NO_EFFECT for name in ("jamba", "mamba with a length")},
    ("longcat_flash", r"\.(router\.classifier\.|experts\.gate_up_proj$)"): NO_EFFECT,
    ("dbrx", r"\.experts\.mlp\."): FAILS,
}
TWO_LIMITS = {("jamba", NO_EFFECT), ("phimoe", NO_EFFECT)}  # of two kinds of modules of one family
APPLIED = re.compile(r"(q_proj|q_b_proj|in_proj|Wqkv)\.weight$")
LIMITED = {kind.removesuffix("_text") for limit in LIMITS for kind in limit.model_types}
FIRST_FAST = [
    pytest.param(name, pattern, effect, marks=[pytest.mark.slow] if n else [])
    for n, ((name, pattern), effect) in enumerate(CASES.items())
]


@dataclass(frozen=True)
class Made:
    """Logits of the base with the changes that PEFT applies, and of the donor; what was printed."""

    applied: torch.Tensor
    donor: torch.Tensor
    printed: str


def move(model: Any, pattern: re.Pattern[str]) -> Iterator[str]:
    generator = torch.Generator().manual_seed(1)
    chosen = [name for name in adapted(model) if pattern.search(name)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in chosen and parameter.shape[1] > 1:  # not a depthwise convolution
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
                yield name


def extracted(root: Path, model: Any) -> str:
    """Extract the model as a donor of root/base; returns what was printed."""
    model.save_pretrained(root / "donor")
    words = ["--base", root / "base", "--donor", root / "donor", "--rank", 512, "--out", root / "adapter"]
    done = CliRunner().invoke(extract.command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def make(name: str, pattern: str, root: Path) -> Made:
    model = base_of(name, root)
    assert list(move(model, APPLIED))
    applied = logits(model)
    assert list(move(model, re.compile(pattern)))
    donor = logits(model)
    assert (donor - applied).abs().max() > 1e-4
    return Made(applied, donor, extracted(root, model))


@pytest.mark.parametrize(("name", "pattern", "effect"), FIRST_FAST)
def test_peft_does_what_the_limit_says(name: str, pattern: str, effect: str, tmp_path: Path) -> None:
    made = make(name, pattern, tmp_path)
    adapter = tmp_path / "adapter/r512"
    warned = [line for line in made.printed.splitlines() if "warning" in line and effect in line]
    family = name.partition(" ")[0]
    assert len(warned) == (2 if (family, effect) in TWO_LIMITS else 1)
    shown = CliRunner().invoke(inspect.command, [str(adapter)]).output
    # the adapter has no factors of the modules that the donor left alone
    assert sum(line.partition("which merge applies: ")[2] in shown for line in warned) == 1
    words = ["--adapter", adapter, "--target", tmp_path / "base", "--out", tmp_path / "graft"]
    done = CliRunner().invoke(merge.command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert (logits(opened(tmp_path / "graft")) - made.donor).abs().max() < 1e-5
    base = opened(tmp_path / "base")
    if effect == NOT_LOADED:
        with pytest.raises(ValueError, match=r"is not supported|is incompatible with Mamba"):
            PeftModel.from_pretrained(base, adapter)
        return
    loaded = PeftModel.from_pretrained(base, adapter).eval()
    if effect == NO_EFFECT:
        assert (logits(loaded) - made.applied).abs().max() < 1e-5
        return
    with pytest.raises(AttributeError):
        logits(loaded)
    assert (logits(loaded.merge_and_unload()) - made.donor).abs().max() < 1e-5


def test_merge_says_it_of_adapters_without_our_record(tmp_path: Path) -> None:
    make("jamba", r"\.mamba\.dt_proj\.", tmp_path)
    adapter = tmp_path / "adapter/r512"
    (adapter / "contextgraft.json").unlink()
    words = ["--adapter", adapter, "--target", tmp_path / "base", "--keep-rope", "--out", tmp_path / "graft"]
    done = CliRunner().invoke(merge.command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert f"{NO_EFFECT} model.layers.0.mamba.dt_proj, which merge applies" in " ".join(done.output.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name.split()[0].removesuffix("_text") not in LIMITED]
)
def test_peft_applies_every_module_of_the_other_families(name: str, tmp_path: Path) -> None:
    model = base_of(name, tmp_path)
    before = logits(model)
    assert list(move(model, re.compile("")))
    donor = logits(model)
    assert "does not apply" not in extracted(tmp_path, model)
    loaded = PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "adapter/r512").eval()
    assert (logits(loaded) - donor).abs().max() < 1e-3 * (donor - before).abs().max()


SHARED = re.compile(r"\.(shared_experts?|mlp|feed_forward)\.(gate|up|down)_proj\.weight$")


@pytest.mark.parametrize(
    "name",
    [
        "qwen2_moe",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("jamba", "qwen3_5_moe", "ernie4_5_vl_moe")),
    ],
)
def test_peft_applies_modules_with_the_names_of_experts_that_it_does_not_apply(
    name: str, tmp_path: Path
) -> None:
    model = base_of(name, tmp_path)
    before = logits(model)
    assert list(move(model, SHARED))
    applied = logits(model)
    assert list(move(model, re.compile(EXPERTS)))
    assert NO_EFFECT in extracted(tmp_path, model)
    loaded = PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "adapter/r512").eval()
    assert (logits(loaded) - applied).abs().max() < 1e-3 * (applied - before).abs().max()


def test_the_types_whose_experts_peft_does_not_convert_are_those_of_its_mapping() -> None:
    stacked = {
        name
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        for entry in get_checkpoint_conversion_mapping(name) or ()
        if any(type(step).__name__ == "MergeModulelist" for step in getattr(entry, "operations", ()))
    }
    unknown = {n for n in stacked if _MODEL_TO_CONVERSION_PATTERN.get(n) not in _MOE_TARGET_MODULE_MAPPING}
    # the text model of Ernie 4.5 VL is no model of its own, and its conversion has a class of its own
    assert {*unknown, "ernie4_5_vl_moe_text"} == set(STACKED_IN_MEMORY)
    assert "ernie4_5_vl_moe" not in _MODEL_TO_CONVERSION_PATTERN


@pytest.mark.parametrize("name", [name for name in STACKED_IN_MEMORY if name != "phimoe"])
def test_the_routers_of_these_types_are_no_class_that_peft_adapts(name: str) -> None:
    family = name.removesuffix("_text")
    classes = vars(importlib.import_module(f"transformers.models.{family}.modeling_{family}"))
    routers = [kind for key, kind in classes.items() if key.lower().endswith("topkrouter")]
    assert routers
    assert not any(issubclass(kind, torch.nn.Linear) for kind in routers)


def test_a_text_model_within_another_has_the_limits_of_its_own_type() -> None:
    names = [f"model.language_model.layers.0.mlp.experts.{n}.up_proj.weight" for n in range(3)]
    kinds = {"model_type": "qwen3_5_moe", "text_model_type": "qwen3_5_moe_text"}
    (line,) = reader_limits(kinds, names)
    assert "experts.0.up_proj and 2 more" in line
    assert reader_limits({"model_type": "qwen3_moe"}, names) == []
