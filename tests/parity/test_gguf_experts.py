"""Experts in adapter.gguf: three dimensions, as llama.cpp multiplies them, with the donor's delta of each."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from click.testing import CliRunner
from tests.parity.test_parameters import base_of, opened

from contextgraft.cli.commands import extract

Weights = dict[str, torch.Tensor]
IN_MEMORY = "model.layers.1.mlp.experts."


def deltas(path: Path) -> Weights:
    """The products of the factors, by name in llama.cpp."""
    factors: dict[str, Weights] = {"a": {}, "b": {}}
    for tensor in gguf.GGUFReader(path).tensors:
        name, _, which = tensor.name.rpartition(".lora_")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()
        shape = [int(size) for size in reversed(tensor.shape)]
        factors[which][name] = torch.from_numpy(values).reshape(shape)
    return {name: factors["b"][name] @ A for name, A in factors["a"].items()}


def moved(name: str, root: Path, experts: slice) -> tuple[Weights, Weights]:
    """What --gguf writes of a donor that changes some experts, and the change of each parameter in memory."""
    before = base_of(name, root)
    model: Any = opened(root / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".experts." in key and not key.endswith("_bias"):
                added = torch.randn(parameter.shape, generator=generator) * 0.05
                parameter[experts] += added[experts]
    model.save_pretrained(root / "donor")
    pair = ["--base", root / "base", "--donor", root / "donor", "--out", root / "out"]
    done = CliRunner().invoke(extract.command, [str(word) for word in (*pair, "--rank", 512, "--gguf")])
    assert done.exit_code == 0, done.output
    base = dict(before.named_parameters())
    change = {key: (value - base[key]).detach() for key, value in model.named_parameters()}
    return deltas(root / "out/r512/adapter.gguf"), change


def test_stacked_experts_are_turned_and_split(tmp_path: Path) -> None:
    """gpt-oss stores [experts, inputs, outputs], and rows of gate and up in turn."""
    received, change = moved("gpt_oss", tmp_path, slice(None))
    both = change[f"{IN_MEMORY}gate_up_proj"].transpose(1, 2)
    expected = {
        "gate": both[:, ::2], "up": both[:, 1::2], "down": change[f"{IN_MEMORY}down_proj"].transpose(1, 2)
    }  # fmt: skip
    for kind, delta in expected.items():
        torch.testing.assert_close(received[f"blk.1.ffn_{kind}_exps.weight"], delta, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", pytest.param("qwen3_moe", marks=pytest.mark.slow)])
def test_single_experts_are_stacked_and_an_unchanged_one_is_zero(name: str, tmp_path: Path) -> None:
    received, change = moved(name, tmp_path, slice(1, 3))
    gate, up = change[f"{IN_MEMORY}gate_up_proj"].chunk(2, dim=1)
    expected = {"gate": gate, "up": up, "down": change[f"{IN_MEMORY}down_proj"]}
    for kind, delta in expected.items():
        assert not delta[3].any()
        torch.testing.assert_close(received[f"blk.1.ffn_{kind}_exps.weight"], delta, rtol=1e-3, atol=1e-4)
