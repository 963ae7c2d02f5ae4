"""Adapters of routers and experts ("all-linear"), and of classifiers, as PEFT saves and loads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
    MixtralConfig,
)

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.errors import MismatchError

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
IDS = torch.randint(3, 60, (1, 20), generator=torch.Generator().manual_seed(5))
HEADS = {"SEQ_CLS": AutoModelForSequenceClassification, "TOKEN_CLS": AutoModelForTokenClassification}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(IDS, use_cache=False).logits
    return out


def moved(model: Any, *, trainable: bool = False) -> Any:
    """The model with its parameters, or those that are trained, moved by random values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def trained(head: Any, target: Path, out: Path, **config: Any) -> Path:
    """An adapter as PEFT saves it, every trainable tensor of it moved."""
    adapted = get_peft_model(head.from_pretrained(target), LoraConfig(r=4, **config))
    moved(adapted, trainable=True).save_pretrained(str(out))
    return out


def agrees_with_peft(head: Any, target: Path, adapter: Path, out: Path) -> None:
    plan = plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True)
    assert not any("its file has" in line or "PEFT ignores" in line for line in plan.warnings)
    merge(plan, out)
    assert all(check.holds for check in verify(out, target=target, adapters=[adapter]))
    expected = logits(PeftModel.from_pretrained(head.from_pretrained(target), str(adapter)))
    torch.testing.assert_close(logits(head.from_pretrained(out)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("modules", "parameters"),
    [
        ("all-linear", None),
        (["q_proj"], ["down_proj"]),
        (["q_proj"], ["gate.weight", "gate_up_proj"]),
        (["q_proj"], ["experts.gate_up_proj", "down_proj"]),
    ],
)
def test_parameters_that_are_named_without_their_module(
    tmp_path: Path, modules: Any, parameters: list[str] | None
) -> None:
    config = MixtralConfig(**SIZES, num_local_experts=4)
    moved(AutoModelForCausalLM.from_config(config)).save_pretrained(tmp_path / "target")
    names: dict[str, Any] = {} if parameters is None else {"target_parameters": parameters}
    arguments = AutoModelForCausalLM, tmp_path / "target", tmp_path / "adapter"
    trained(*arguments, target_modules=modules, **names)
    agrees_with_peft(*arguments, tmp_path / "graft")


@pytest.mark.parametrize("task", HEADS)
def test_a_classifier_saves_one_of_the_modules_that_peft_lists(tmp_path: Path, task: str) -> None:
    moved(HEADS[task].from_config(LlamaConfig(**SIZES))).save_pretrained(tmp_path / "target")
    arguments = HEADS[task], tmp_path / "target", tmp_path / "adapter"
    adapter = trained(*arguments, target_modules=["q_proj"], task_type=task)
    listed = json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"]
    assert set(listed) == {"classifier", "score"}
    agrees_with_peft(*arguments, tmp_path / "graft")


def test_a_target_for_question_answering_has_the_names_of_its_own_class(tmp_path: Path) -> None:
    """Its modules begin with `transformer`, those of Llama's other classes with `model`."""
    target, other = tmp_path / "target", tmp_path / "other"
    moved(AutoModelForQuestionAnswering.from_config(LlamaConfig(**SIZES))).save_pretrained(target)
    moved(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))).save_pretrained(other)
    own = trained(AutoModelForQuestionAnswering, target, tmp_path / "own", target_modules=["q_proj"])
    assert _warnings(own, target) == ()
    (line,) = _warnings(trained(AutoModelForCausalLM, other, own / "2", target_modules=["q_proj"]), target)
    assert "PEFT ignores them" in line
    assert "'transformer.layers.0.self_attn.q_proj.weight'" in line


def _warnings(adapter: Path, target: Path) -> tuple[str, ...]:
    return plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True).warnings


def test_a_saved_module_of_the_target_that_is_missing_is_refused(tmp_path: Path) -> None:
    target, adapter = tmp_path / "target", tmp_path / "adapter"
    moved(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))).save_pretrained(target)
    trained(AutoModelForCausalLM, target, adapter, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["lm_head"]}))
    with pytest.raises(KeyError, match="lm_head"):
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(target), str(adapter))
    with pytest.raises(MismatchError, match="lacks modules that its config saves"):
        plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True)
