"""Sizes from a config alone against what is really written, and against what was published."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.checkpoint.model_folder import open_tensors
from contextgraft.formats.tensor_names import BY_TOKEN, TensorRole
from contextgraft.planning.adapters import adapter_bytes, dense_bytes, factorised, tensor_infos
from contextgraft.planning.shapes.model_shape import read_model_shape

from .shapes import LLAMA_70B, shape_of

HEAD = TensorSelection(embeddings=(TensorRole.OUTPUT,))


def test_the_published_adapter_to_the_byte() -> None:
    assert adapter_bytes(LLAMA_70B, HEAD, 32) == 837_107_712
    assert len(factorised(tensor_infos(LLAMA_70B), HEAD)) == 7 * 80 + 1


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_are_those_of_the_shape(tied: bool, toy: SimpleNamespace) -> None:
    config = toy.config(tie_word_embeddings=tied)
    weights = toy.weights(config) | ({} if tied else {"lm_head.weight": torch.zeros(50, 64)})
    shape = shape_of(config)
    assert {info.name: info.shape for info in tensor_infos(shape)} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    assert sum(info.numel for info in tensor_infos(shape)) == shape.parameters


@pytest.mark.parametrize(
    "selection",
    [
        TensorSelection(),
        HEAD,
        TensorSelection(embeddings=BY_TOKEN),
        TensorSelection(exclude="mlp|norm"),
    ],
)
def test_what_is_planned_is_what_is_written(
    selection: TensorSelection, toy: SimpleNamespace, tmp_path: Path
) -> None:
    config = toy.config(tie_word_embeddings=False)
    base = toy.weights(config)
    base["lm_head.weight"] = base["model.embed_tokens.weight"].clone()
    donor = toy.moved(base, 1)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        donor[name] = (base[name].float() * 1.1).bfloat16()
    for name, weights in (("base", base), ("donor", donor)):
        folder = toy.write(tmp_path / name, weights, config)
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    extract(
        open_pair(tmp_path / "base", tmp_path / "donor", selection),
        [RankSpec(8), RankSpec(48)],
        tmp_path / "made",
    )
    shape = read_model_shape(tmp_path / "base")
    for rank in (8, 48):
        written = open_tensors(tmp_path / f"made/r{rank}/adapter_model.safetensors").tensors.values()
        assert adapter_bytes(shape, selection, rank) == sum(info.bytes for info in written)
    extra = tmp_path / "made/r8/contextgraft.safetensors"
    dense = sum(info.bytes for info in open_tensors(extra).tensors.values()) if extra.exists() else 0
    assert dense_bytes(shape, selection) == dense
