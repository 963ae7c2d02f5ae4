"""FP8 with scales by block, dequantised: what transformers computes, without its memory."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from contextgraft.checkpoint.full_precision import quantisation
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError
from contextgraft.sources import dequantise
from contextgraft.sources.conversion import Conversion
from contextgraft.sources.fetch import fetch

DEQUANTISE = Conversion(dequantise=True)
Tensors = dict[str, torch.Tensor]


def quantise(
    weight: torch.Tensor, block: tuple[int, int], scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 values and scales of a weight whose sides need not be multiples of the block's."""
    rows, columns = (-(-side // size) for side, size in zip(weight.shape, block, strict=True))
    padded = torch.zeros(rows * block[0], columns * block[1])
    padded[: weight.shape[0], : weight.shape[1]] = weight
    tiles = padded.reshape(rows, block[0], columns, block[1])
    scales = (tiles.abs().amax((1, 3)) / 448).clamp(min=1e-9)
    if scale_dtype == torch.float8_e8m0fnu:
        scales = torch.exp2(scales.log2().ceil())
    values = (tiles / scales[:, None, :, None]).reshape(padded.shape)[: weight.shape[0], : weight.shape[1]]
    return values.to(torch.float8_e4m3fn), scales.to(scale_dtype)


@pytest.fixture
def model(toy: SimpleNamespace, tmp_path: Path) -> Any:
    """Write an FP8 model with blocks of one size; returns its folder and its FP8 tensors."""

    def write(
        block: tuple[int, int] = (32, 32), dtype: torch.dtype = torch.float32, shards: int = 2, **section: Any
    ) -> tuple[Path, Tensors]:
        config = toy.config(torch_dtype="bfloat16")
        tensors: Tensors = {}
        for name, weight in toy.weights(config).items():
            if "_proj" in name:
                values, scales = quantise(weight.float(), block, dtype)
                tensors |= {name: values, f"{name}_scale_inv": scales}
            else:
                tensors[name] = weight
        tensors["model.layers.0.self_attn.q_proj.activation_scale"] = torch.ones(1)
        config["quantization_config"] = {
            "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
            "weight_block_size": list(block), **section,
        }  # fmt: skip
        return toy.write(tmp_path / "fp8", tensors, config, shards), tensors

    return write


def loaded(folder: Path) -> Tensors:
    result: Tensors = {}
    for file in folder.glob("*.safetensors"):
        result |= load_file(file)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize("tile", [1, 1 << 25], ids=["small tiles", "one tile"])
def test_it_is_what_transformers_computes(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tile: int
) -> None:
    monkeypatch.setattr(dequantise, "TILE_BYTES", tile)
    folder, tensors = model(dtype=dtype)
    record = fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    result = loaded(tmp_path / "out")
    reference = Fp8Dequantize(None)
    fp8 = [name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn]
    for name in fp8:
        want = reference._dequantize_one(tensors[name], tensors[f"{name}_scale_inv"], torch.bfloat16)
        assert torch.equal(result[name], want), name
    kept = {name for name in tensors if not name.endswith(("_scale_inv", "activation_scale"))}
    assert set(result) == kept
    assert all(torch.equal(result[name], tensors[name]) for name in kept - set(fp8))
    assert record["dequantised_to"] == "bfloat16"
    assert quantisation(open_model(tmp_path / "out")) is None


def test_transformers_loads_it_without_quantisation(model: Any, tmp_path: Path) -> None:
    folder, _ = model()
    fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    (tmp_path / "out/tokenizer.json").unlink()
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert result.dtype == torch.bfloat16
    assert torch.isfinite(result(torch.tensor([[1, 2, 3]])).logits).all()
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in loaded(tmp_path / "out").values())


def test_blocks_at_the_edges_may_be_partial(model: Any, tmp_path: Path) -> None:
    folder, tensors = model(block=(40, 24), shards=1)
    fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    result = loaded(tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"  # 96 x 64
    values, scales = tensors[name], tensors[f"{name}_scale_inv"]
    for row, column in ((0, 0), (39, 23), (40, 24), (95, 63)):
        want = values[row, column].float() * scales[row // 40, column // 24]
        assert result[name][row, column] == want.bfloat16()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_one_scale_for_a_whole_tensor(model: Any, tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder, tensors = model(block=(96, 96), shards=1, weight_block_size=None)
    single = {n: t.reshape(shape) if n.endswith("_scale_inv") else t for n, t in tensors.items()}
    save_file(single, folder / "model.safetensors", {"format": "pt"})
    fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    for name, result in loaded(tmp_path / "out").items():
        if "_proj" in name:
            want = (tensors[name].float() * tensors[f"{name}_scale_inv"].float()).bfloat16()
            assert torch.equal(result, want)


def test_stacked_experts_have_a_grid_each(toy: SimpleNamespace, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [quantise(torch.randn(64, 96, generator=generator), (32, 32), torch.float32) for _ in range(3)]
    stacked = {
        "model.layers.0.experts.down_proj": torch.stack(
            [values.view(torch.uint8) for values, _ in pairs]
        ).view(torch.float8_e4m3fn),
        "model.layers.0.experts.down_proj_scale_inv": torch.stack([scales for _, scales in pairs]),
    }
    section = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    folder = toy.write(tmp_path / "fp8", stacked, toy.config(quantization_config=section))
    fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    (result,) = loaded(tmp_path / "out").values()
    for number, pair in enumerate(pairs):
        assert torch.equal(result[number], Fp8Dequantize(None)._dequantize_one(*pair, torch.bfloat16))


def test_a_model_in_full_precision_is_copied(toy: SimpleNamespace, tmp_path: Path) -> None:
    folder = toy.write(tmp_path / "plain", toy.weights(toy.config()), toy.config())
    record = fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    assert record["dequantised_to"] is None
    assert (tmp_path / "out/config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_other_methods_and_missing_scales_are_refused(model: Any, tmp_path: Path) -> None:
    folder, tensors = model(shards=1, quant_method="awq")
    with pytest.raises(CheckpointError, match=r"fp8: is quantised \(awq\); expected quant_method fp8"):
        fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    folder, tensors = model(shards=1)
    name = "model.layers.1.mlp.up_proj.weight"
    for scales, message in ((None, "no scales"), (torch.ones(5, 7), r"received \[5, 7\]")):
        changed = {n: t for n, t in tensors.items() if n != f"{name}_scale_inv"}
        if scales is not None:
            changed[f"{name}_scale_inv"] = scales
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=f"{name}' cannot be dequantised.*{message}"):
            fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    assert not (tmp_path / "out").exists()


UP = "model.layers.1.mlp.up_proj.weight"
UNUSABLE: dict[str, tuple[Tensors, str]] = {
    "FP4 packed in int8": (
        {UP: torch.ones(48, 16, dtype=torch.int8)}, "expected .*FP8.*; received I8"
    ),
    "scales of values in bfloat16": (
        {UP: torch.ones(48, 32, dtype=torch.bfloat16)}, "expected FP8 .*; received BF16"
    ),
    "int8 without scales": (
        {"model.layers.1.mlp.x.weight": torch.ones(4, 4, dtype=torch.int8)}, "received I8"
    ),
    "scales of nothing": ({"model.y.weight_scale_inv": torch.ones(1)}, "received no such tensor"),
    "scale that is not a number": (
        {f"{UP}_scale_inv": torch.full((2, 1), torch.nan)}, "expected finite values and scales"
    ),
    "value that is not a number": (
        {UP: torch.full((48, 32), torch.nan).to(torch.float8_e4m3fn)}, "expected finite values and scales"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_not_fp8_with_scales_is_refused(model: Any, tmp_path: Path, kind: str) -> None:
    folder, tensors = model(shards=1)
    changes, message = UNUSABLE[kind]
    save_file({**tensors, **changes}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"fp8: tensor .* cannot be dequantised; .*{message}"):
        fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


METHODS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        "compressed-tensors",
    ),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt"),
    "fbgemm_fp8": ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
    "a file of modelopt's own": (None, "no quantization_config"),
}


@pytest.mark.parametrize("kind", METHODS)
def test_other_forms_of_fp8_are_refused_by_name(model: Any, tmp_path: Path, kind: str) -> None:
    """Their scales have other names and shapes; nothing is copied in the belief that it was dequantised."""
    folder, tensors = model(shards=1)
    section, received = METHODS[kind]
    renamed = {name.replace("_scale_inv", "_scale"): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": section}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=f"is quantised .*expected quant_method fp8.*received {received}"
    ):
        fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    assert not (tmp_path / "out").exists()


def test_blocks_are_those_of_transformers_where_the_config_does_not_say(model: Any, tmp_path: Path) -> None:
    folder, tensors = model((128, 128), shards=1)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["weight_block_size"]
    name = "model.layers.0.mlp.up_proj.weight"
    weight = torch.randn(192, 32)
    tensors[name], tensors[f"{name}_scale_inv"] = quantise(weight, (128, 128), torch.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    fetch(str(folder), tmp_path / "out", conversion=DEQUANTISE)
    factors = tensors[f"{name}_scale_inv"].repeat_interleave(128, 0)[:192]
    assert torch.equal(loaded(tmp_path / "out")[name], (tensors[name].float() * factors).bfloat16())
