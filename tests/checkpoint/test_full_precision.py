"""Quantised and incomplete models are refused with that reason, whichever command opens them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.analysis.model_summary import summary, summary_lines
from contextgraft.adapter.analysis.model_triple import open_triple
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.full_precision import check_full_precision, quantisation
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, NotFullPrecision

Tensors = dict[str, torch.Tensor]


def packed(name: str, weight: torch.Tensor, **more: torch.Tensor) -> Tensors:
    """A quantised matrix: `more` by suffix of the module."""
    module = name.removesuffix("weight")
    return {f"{module}{suffix.replace('__', '.')}": value for suffix, value in more.items()}


def integers(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


BYTE, FP8 = torch.uint8, torch.float8_e4m3fn
# method -> (quantization_config, what becomes of a matrix, the method that its tensors alone prove)
METHODS: Mapping[str, tuple[dict[str, Any], Callable[[str, torch.Tensor], Tensors], str]] = {
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        lambda n, w: {
            n: integers(w.numel() // 2, 1, dtype=BYTE),
            f"{n}.absmax": torch.zeros(8),
            f"{n}.quant_state.bitsandbytes__nf4": integers(9, dtype=BYTE),
        },
        "bitsandbytes",
    ),
    "bitsandbytes 8 bit": (
        {"load_in_8bit": True},
        lambda n, w: {n: integers(*w.shape, dtype=torch.int8), **packed(n, w, SCB=torch.ones(len(w)))},
        "bitsandbytes",
    ),
    "gptq": (
        {"quant_method": "gptq", "bits": 4},
        lambda n, w: packed(n, w, qweight=integers(8, len(w)), g_idx=integers(64), scales=torch.ones(1, 8)),
        "gptq",
    ),
    "awq": (
        {"quant_method": "awq"},
        lambda n, w: packed(n, w, qweight=integers(64, 8), qzeros=integers(1, 8)),
        "gptq or awq",
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        lambda n, w: {n: w.to(FP8), f"{n}_scale_inv": torch.ones(1, 1)},
        "fp8",
    ),
    "fbgemm_fp8": (
        {"quant_method": "fbgemm_fp8"},
        lambda n, w: {n: w.to(FP8), f"{n}_scale": torch.ones(len(w), 1)},
        "of a kind that stores scales",
    ),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        lambda n, w: packed(n, w, weight_packed=integers(64, 8), weight_scale=torch.ones(64, 1)),
        "compressed-tensors",
    ),
    "hqq": ({"quant_method": "hqq"}, lambda n, w: packed(n, w, W_q=integers(64, 8, dtype=BYTE)), "hqq"),
    "quanto": (
        {"quant_method": "quanto"},
        lambda n, w: packed(n, w, weight___data=integers(64, 8, dtype=torch.int8)),
        "quanto",
    ),
    "mxfp4": (
        {"quant_method": "mxfp4"},
        lambda n, w: packed(n, w, down_proj_blocks=integers(2, 4, 2, 16, dtype=BYTE)),
        "mxfp4",
    ),
    "torchao": (
        {"quant_method": "torchao"},
        lambda n, w: packed(n, w, _weight_qdata=integers(64, 64, dtype=torch.int8)),
        "torchao",
    ),
    "eetq": ({"quant_method": "eetq"}, lambda n, w: {n: integers(*w.shape, dtype=torch.int8)}, "I8"),
}


@pytest.fixture(scope="module")
def models(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base, a donor and the adapter of their difference."""
    root = tmp_path_factory.mktemp("models")
    weights = toy.weights(toy.config())
    base = toy.write(root / "base", weights, toy.config())
    donor = toy.write(root / "donor", toy.moved(weights, 1), toy.config())
    extract(open_pair(base, donor), [RankSpec(2)], root / "adapters")
    return SimpleNamespace(base=base, donor=donor, adapter=root / "adapters/r2", weights=weights)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("name", METHODS)
def test_the_method_is_the_reason_before_anything_else(
    models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path, name: str, declared: bool
) -> None:
    section, change, proved = METHODS[name]
    tensors: Tensors = {}
    for key, weight in models.weights.items():
        tensors |= change(key, weight) if "_proj" in key else {key: weight}
    config = toy.config(**({"quantization_config": section} if declared else {}))
    folder = toy.write(tmp_path / "packed", tensors, config)
    (folder / "tokenizer.json").unlink()
    method = section.get("quant_method", "bitsandbytes") if declared else proved
    assert quantisation(open_model(folder)) == method
    words = rf"packed: is quantised \({method}\).*original precision"
    adapter = open_adapter(models.adapter)
    for attempt in (
        lambda: plan_merge([ScaledAdapter(adapter)], folder),
        lambda: open_pair(models.base, folder),
        lambda: open_pair(folder, models.donor),
        lambda: open_triple(models.base, models.donor, folder),
    ):
        with pytest.raises(NotFullPrecision, match=words):
            attempt()
    assert f"quantised     {method}: no delta can be added" in summary_lines(summary(open_model(folder)))


def test_a_quantised_text_model_counts(models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path) -> None:
    text = {"quantization_config": {"quant_method": "awq"}}
    folder = toy.write(tmp_path / "vl", models.weights, toy.config(text_config=text))
    assert quantisation(open_model(folder)) == "awq"


def test_a_leftover_section_over_full_weights_is_named(
    models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path
) -> None:
    config = toy.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    folder = toy.write(tmp_path / "merged", models.weights, config)
    with pytest.raises(NotFullPrecision, match="its weights are not: remove quantization_config"):
        check_full_precision(open_model(folder), "a merge")


@pytest.mark.parametrize("section", [{}, [], "", False, True, "gptq", None])
def test_an_empty_section_is_refused_as_by_transformers(
    section: Any, models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """It was merged, and the graft did not load."""
    folder = toy.write(tmp_path / "model", models.weights, toy.config(quantization_config=section))
    if section is None:
        AutoModelForCausalLM.from_pretrained(folder)
        check_full_precision(open_model(folder), "a merge")
        return
    with pytest.raises((ValueError, AttributeError)):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"has a quantization_config.*does not load.*remove"):
        check_full_precision(open_model(folder), "a merge")


def test_pickles_of_a_quantised_model_are_not_the_reason(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config(quantization_config={"quant_method": "torchao"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(NotFullPrecision, match=r"is quantised \(torchao\)"):
        open_model(tmp_path)


def test_the_tensors_of_an_unquantised_model_prove_nothing(
    models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path
) -> None:
    masks = {
        "model.layers.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e4),
        "model.embeddings.position_ids": integers(1, 4, dtype=torch.int64),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.empty.bias": torch.ones(0),
    }
    folder = toy.write(tmp_path / "full", models.weights | masks, toy.config())
    check_full_precision(open_model(folder), "a merge")


@pytest.mark.parametrize("shape", [(0,), (128,), (4, 0)], ids=["ZeRO-3", "FSDP", "no columns"])
def test_an_adapter_that_was_not_gathered_says_so(
    models: SimpleNamespace, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    for path in models.adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: torch.zeros(shape) for name in load_file(file)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: has .*ZeRO-3.*gathered: `zero"):
        open_adapter(tmp_path)


def test_a_model_that_was_not_gathered_says_so(
    models: SimpleNamespace, toy: SimpleNamespace, tmp_path: Path
) -> None:
    folder = toy.write(tmp_path / "shard", {n: torch.zeros(0) for n in models.weights}, toy.config())
    with pytest.raises(CheckpointError, match=r"shard: has tensors that are empty.*ZeRO-3"):
        plan_merge([ScaledAdapter(open_adapter(models.adapter))], folder)
