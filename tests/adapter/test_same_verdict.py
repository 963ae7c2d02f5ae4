"""inspect-sheet and inspect --base say of a target what merge then does."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from contextgraft.cli.commands import extract, inspect, inspect_sheet, merge
from contextgraft.errors import ContextgraftError

Weights = dict[str, torch.Tensor]
Change = Callable[[Weights], Weights]
NORM = "model.layers.1.input_layernorm.weight"


def named(rename: Callable[[str], str]) -> Change:
    """The same tensors under other names."""
    return lambda weights: {rename(name): tensor for name, tensor in weights.items()}


def added(*names: str, shape: tuple[int, ...] = (64, 64)) -> Change:
    """More tensors."""
    return lambda weights: weights | {name: torch.zeros(shape, dtype=torch.bfloat16) for name in names}


def without(part: str) -> Change:
    """Fewer tensors."""
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


def cast(dtype: torch.dtype, part: str = "proj") -> Change:
    """Another precision."""
    return lambda weights: {n: t.to(dtype) if part in n else t for n, t in weights.items()}


def rows(count: int) -> Change:
    """Embeddings of another length."""
    return lambda weights: (
        weights | {"model.embed_tokens.weight": torch.zeros(count, 64, dtype=torch.bfloat16)}
    )


TARGETS: dict[str, tuple[Change, dict[str, Any], bool]] = {
    "a fine-tune": (dict, {}, True),
    "in half precision": (cast(torch.float16, ""), {}, True),
    "compiled": (named(lambda n: f"_orig_mod.{n}"), {}, False),
    "distributed": (named(lambda n: f"module.{n}"), {}, False),
    "without the prefix": (named(lambda n: n.removeprefix("model.")), {}, True),
    "tower first": (named(lambda n: f"language_model.{n}"), {}, True),
    "tower inside": (named(lambda n: n.replace("model.", "model.language_model.", 1)), {}, True),
    "with another tower": (added("visual.blocks.0.attn.proj.weight"), {}, True),
    "with a head for more tokens": (added("mtp.layers.0.mlp.up_proj.weight"), {}, True),
    "with a further layer": (added("model.layers.2.mlp.up_proj.weight"), {}, True),
    "with buffers": (added("model.layers.0.self_attn.rotary_emb.inv_freq", shape=(8,)), {}, True),
    "lacks a norm": (without(NORM), {}, False),
    "lacks a projection": (without("1.self_attn.q_proj"), {}, False),
    "of doubles": (cast(torch.float64), {}, False),
    "of integers": (cast(torch.int8), {}, False),
    "said to be quantised": (dict, {"quantization_config": {"quant_method": "gptq"}}, False),
    "an empty section of quantisation": (dict, {"quantization_config": {}}, False),
    "null for quantisation": (dict, {"quantization_config": None}, True),
    "not gathered": (lambda w: w | {NORM: torch.zeros(0, dtype=torch.bfloat16)}, {}, False),
    "wider norm": (lambda w: w | {NORM: torch.zeros(65, dtype=torch.bfloat16)}, {}, False),
    "more tokens": (rows(56), {"vocab_size": 56}, True),
    "tokens that its config denies": (rows(56), {}, False),
    "no head": (dict, {"tie_word_embeddings": False}, False),
    "a head of its own": (added("lm_head.weight", shape=(50, 64)), {"tie_word_embeddings": False}, True),
    "a copy of the head": (
        lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()}, {}, True
    ),
    "another class": (dict, {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, False),
    "fewer heads by its config": (dict, {"num_attention_heads": 2}, False),
    "other positions": (dict, {"rope_theta": 5e5, "max_position_embeddings": 64}, True),
}  # fmt: skip
BASES: dict[str, tuple[Change, bool]] = {
    "plain": (dict, True),
    "with a head for more tokens": (added("mtp.layers.0.mlp.up_proj.weight"), True),
    "with a further layer": (added("model.layers.2.mlp.up_proj.weight"), True),
    "without the prefix": (named(lambda n: n.removeprefix("model.")), True),
    "tower first": (named(lambda n: f"language_model.{n}"), True),
    "with buffers": (added("model.layers.0.self_attn.rotary_emb.inv_freq", shape=(8,)), True),
}


def run(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def merges(adapter: Path, target: Path, out: Path) -> bool:
    """Whether merge succeeds; it may fail only with a reason."""
    done = run(merge.command, "--adapter", adapter, "--target", target, "--out", out)
    assert done.exit_code == 0 or isinstance(done.exception, ContextgraftError), done.exception
    assert out.exists() == (done.exit_code == 0)
    return done.exit_code == 0


def verdicts(base: Path, target: Path, sheet: Path) -> tuple[bool, bool]:
    """Whether the target fits, by inspect-sheet and by inspect --base."""
    for folder in (base, target):
        (folder / "tokenizer.json").unlink()  # the toy's holds nothing
    sheet.write_text(f"name\tsource\ntune\t{target}\n")
    listed = run(inspect_sheet.command, sheet, "--base", base, "--json")
    assert listed.exit_code == 0, listed.exception
    (row,) = json.loads(listed.stdout)["targets"]
    assert row["reasons"] or row["verdict"] == "fits"
    alone = run(inspect.command, target, "--base", base, "--json")
    assert alone.exit_code == 0 or isinstance(alone.exception, ContextgraftError), alone.exception
    by_inspect = alone.exit_code == 0 and json.loads(alone.stdout)["base"]["fits"]
    return row["verdict"] == "fits", by_inspect


@pytest.fixture
def pair(toy: SimpleNamespace, tmp_path: Path) -> Callable[[Change], Weights]:
    """Writes a base, a donor with its names, and the adapter between them."""

    def write(change: Change) -> Weights:
        config = toy.config()
        weights: Weights = toy.weights(config)
        donor = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
        toy.write(tmp_path / "base", change(weights), config)
        toy.write(tmp_path / "donor", toy.moved(weights, 1), donor)
        words = ["--base", tmp_path / "base", "--donor", tmp_path / "donor", "--out", tmp_path / "adapter"]
        assert run(extract.command, *words, "--rank", 4).exit_code == 0
        return weights

    return write


@pytest.mark.parametrize("kind", TARGETS)
def test_of_a_target(kind: str, pair: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    change, config, expected = TARGETS[kind]
    weights = toy.moved(pair(dict), 2)
    target = toy.write(tmp_path / "target", change(weights), toy.config(**config))
    assert merges(tmp_path / "adapter/r4", target, tmp_path / "graft") == expected
    assert verdicts(tmp_path / "base", target, tmp_path / "sheet.tsv") == (expected, expected)


@pytest.mark.parametrize("kind", BASES)
def test_of_a_base(kind: str, pair: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    change, expected = BASES[kind]
    target = toy.write(tmp_path / "target", toy.moved(pair(change), 2), toy.config())
    assert merges(tmp_path / "adapter/r4", target, tmp_path / "graft") == expected
    assert verdicts(tmp_path / "base", target, tmp_path / "sheet.tsv") == (expected, expected)
