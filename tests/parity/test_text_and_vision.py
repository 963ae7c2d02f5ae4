"""Text models and vision-language models around the same one: an adapter of either merges into the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.parity.families.proof import (
    LENGTHS,
    TOWERS,
    base_config,
    donor_config,
    logits,
    model_of,
    move,
)
from tests.parity.families.table import FAMILIES
from transformers import AutoConfig

from contextgraft.cli.commands import extract, merge, verify
from contextgraft.errors import MismatchError
from contextgraft.formats.model.same_language_model import compute_alike

TEXT_TYPES = {  # not Aya Vision: it lacks the scale that Cohere 2 puts on its logits
    "qwen2_5_vl": "qwen2", "qwen2_vl": "qwen2", "qwen3_vl": "qwen3", "gemma3": "gemma3_text",
    "llava": "llama", "llava_next": "mistral", "internvl": "qwen2", "idefics3": "llama", "paligemma": "gemma",
    "mistral3": "ministral3", "lfm2_vl": "lfm2", "qwen3_5": "qwen3_5_text", "glm4v": "glm4",
    "exaone4_5": "exaone4", "qwen2_5_omni_thinker": "qwen2",
}  # fmt: skip
QUICK = ("qwen2_5_vl", "gemma3", "llava")
PAIRS = [
    pytest.param(name, text, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name, text in TEXT_TYPES.items()
]
SHARED = ("model_type", "architectures", "transformers_version", "rope_parameters")


def run(command: Any, *words: object) -> None:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def inner(name: str) -> str:
    """A tensor's name without what stands in front of it in either model."""
    for front in ("model.language_model.", "language_model.model.", "model.text_model.", "model."):
        if name.startswith(front):
            return name.removeprefix(front)
    return name.removeprefix("language_model.")


def save_both(vision: str, text: str, root: Path) -> None:
    """A vision-language model, and its language model alone in its own class: bases, and a donor of each."""
    torch.manual_seed(0)
    whole = model_of(base_config(vision, FAMILIES[vision]))
    move(whole)
    section = whole.config.get_text_config(decoder=True).to_dict()
    values = {key: value for key, value in section.items() if key not in SHARED}
    rope = section.get("rope_parameters")
    if rope:
        values["rope_parameters"] = {key: value for key, value in rope.items() if "mrope" not in key}
        if "partial_rotary_factor" in (AutoConfig.for_model(text).rope_parameters or {}):  # not 1 by default
            values["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    values["tie_word_embeddings"] = whole.config.tie_word_embeddings
    if "head_dim" in AutoConfig.for_model(text).to_dict():  # with a default of its own
        values.setdefault("head_dim", section["hidden_size"] // section["num_attention_heads"])
    alone = model_of(AutoConfig.for_model(text, **values))
    tensors = {inner(name): tensor for name, tensor in whole.state_dict().items()}
    alone.load_state_dict({name: tensors[inner(name)] for name in alone.state_dict()})
    for kind, model in (("whole", whole), ("alone", alone)):
        model.save_pretrained(root / kind / "base")
        donor = model_of(donor_config(model.config, {}, "theta", 4))
        donor.load_state_dict(model.state_dict())
        moved = {id(p): p for n, p in donor.named_parameters() if not any(tower in n for tower in TOWERS)}
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in sorted(moved.values(), key=lambda p: tuple(p.shape)):
                if parameter.ndim == 2 and parameter.shape[0] != 64:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        donor.save_pretrained(root / kind / "donor")


@pytest.mark.parametrize(("vision", "text"), PAIRS)
@pytest.mark.parametrize("direction", ["text to vision", "vision to text"])
def test_an_adapter_of_the_other_class(vision: str, text: str, direction: str, tmp_path: Path) -> None:
    save_both(vision, text, tmp_path)
    origin, goal = ("alone", "whole") if direction == "text to vision" else ("whole", "alone")
    base, donor, target = tmp_path / origin / "base", tmp_path / origin / "donor", tmp_path / goal / "base"
    run(extract.command, "--base", base, "--donor", donor, "--out", tmp_path / "adapter", "--rank", 64)
    adapter, graft = tmp_path / "adapter/r64", tmp_path / "graft"
    run(merge.command, "--adapter", adapter, "--target", target, "--out", graft)
    for length in LENGTHS:
        assert torch.allclose(logits(donor, length), logits(graft, length), atol=1e-4)
    before, after = load_file(target / "model.safetensors"), load_file(graft / "model.safetensors")
    assert before.keys() == after.keys()
    towers = [name for name in before if any(tower in name for tower in TOWERS)]
    assert all(torch.equal(before[name], after[name]) for name in towers)
    rope = json.loads((graft / "config.json").read_text())
    sections = "mrope_section" in json.dumps(rope.get("text_config", rope).get("rope_parameters"))
    assert sections == ("mrope_section" in (target / "config.json").read_text())
    run(verify.command, graft, "--target", target, "--adapter", adapter)


@pytest.mark.parametrize(
    ("first", "second"),
    [("qwen2_5_vl_text", "llama"), ("gemma3_text", "gemma2"), ("cohere2", "cohere"),
     ("ministral3", "mistral"), ("gemma", "llama"), ("mllama_text_model", "llama"),
     ("qwen3_vl_text", "qwen2"), ("glm4v_text", "glm"),
     # the weights of the experts of a token sum up to 1 in the first always, in the second only on request
     ("qwen3_vl_moe_text", "qwen3_moe")],
)  # fmt: skip
def test_language_models_that_compute_something_else(first: str, second: str) -> None:
    assert not compute_alike(first, second)
    assert not compute_alike(second, first)


@pytest.mark.parametrize(("inside", "alone"), [("glm4v_text", "glm4"), ("glm4v_moe_text", "glm4_moe")])
def test_the_fraction_that_rotates_is_no_other_language_model(inside: str, alone: str) -> None:
    """It is among the RoPE settings, and the defaults of both classes differ."""
    assert compute_alike(inside, alone)


def test_another_language_model_inside_is_refused(tmp_path: Path) -> None:
    """Gemma inside PaliGemma has the names and shapes of Llama, and computes something else."""
    save_both("paligemma", "gemma", tmp_path)
    base, donor = tmp_path / "alone/base", tmp_path / "alone/donor"
    run(extract.command, "--base", base, "--donor", donor, "--out", tmp_path / "adapter", "--rank", 4)
    path = tmp_path / "whole/base/config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"model_type": "llama"}
    path.write_text(json.dumps(config))
    words = ["--adapter", tmp_path / "adapter/r4", "--target", path.parent, "--out", tmp_path / "graft"]
    done = CliRunner().invoke(merge.command, [str(word) for word in words])
    assert isinstance(done.exception, MismatchError)
    assert "another architecture" in str(done.exception)
    assert not (tmp_path / "graft").exists()
