"""Adapters that exist already: recognised only of the same models, configs and tokenizers, and undamaged."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.finished import finished_adapters
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.errors import OutputError
from contextgraft.formats.peft import DENSE_DELTAS
from contextgraft.formats.tensor_names import TensorRole

SPECS = [RankSpec(2), RankSpec(3)]


@pytest.fixture
def pair(toy: SimpleNamespace, tmp_path: Path) -> Path:
    config = toy.config()
    base = toy.weights(config)
    toy.write(tmp_path / "base", base, config)
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    toy.write(tmp_path / "donor", toy.moved(base, 1), longer)
    vocabulary = {f"t{index}": index for index in range(config["vocab_size"])}
    for side in ("base", "donor"):
        (tmp_path / side / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return tmp_path


def known(folder: Path, *, embeddings: bool = False, gguf: bool = False) -> dict[str, Any] | None:
    selection = TensorSelection(embeddings=(TensorRole.INPUT,) if embeddings else ())
    models = open_pair(folder / "base", folder / "donor", selection)
    if not (folder / "out").exists():
        extract(models, SPECS, folder / "out", gguf=gguf)
    return finished_adapters(models, SPECS, folder / "out", gguf=gguf)


def edit(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def other_class(root: Path) -> None:
    for side in ("base", "donor"):
        edit(root / side / "config.json", model_type="mistral", architectures=["MistralForCausalLM"])


CHANGES: dict[str, Callable[[Path], object]] = {
    "the donor's window": lambda root: edit(root / "donor/config.json", sliding_window=64),
    "the donor's eps": lambda root: edit(root / "donor/config.json", rms_norm_eps=1e-3),
    "the base's eps": lambda root: edit(root / "base/config.json", rms_norm_eps=1e-3),
    "the donor's length": lambda root: edit(root / "donor/config.json", max_position_embeddings=2048),
    "the donor's theta": lambda root: edit(root / "donor/config.json", rope_theta=5e4),
    "both classes": other_class,
}


@pytest.mark.parametrize("change", CHANGES)
def test_adapters_of_other_configs_are_not_recognised(pair: Path, change: str) -> None:
    assert known(pair)
    CHANGES[change](pair)
    assert known(pair) is None


@pytest.mark.parametrize("side", ["base", "donor"])
def test_another_tokenizer_is_another_extraction_of_embeddings(pair: Path, side: str) -> None:
    assert known(pair, embeddings=True)
    edit(
        pair / side / "tokenizer.json", added_tokens=[{"content": "t0", "id": 1}, {"content": "t1", "id": 0}]
    )
    assert known(pair, embeddings=True) is None


def test_tokenizers_do_not_matter_without_embeddings(pair: Path) -> None:
    assert known(pair)
    edit(pair / "donor/tokenizer.json", version="2")
    assert known(pair)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "cut weights": lambda folder: os.truncate(folder / "adapter_model.safetensors", 900),
    "no config": lambda folder: (folder / "adapter_config.json").unlink(),
    "no deltas": lambda folder: (folder / DENSE_DELTAS).unlink(),
    "cut deltas": lambda folder: os.truncate(folder / DENSE_DELTAS, 100),
    "cut GGUF": lambda folder: os.truncate(folder / "adapter.gguf", 2000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_adapters_are_said(pair: Path, damage: str) -> None:
    gguf = "GGUF" in damage
    assert known(pair, gguf=gguf)
    DAMAGES[damage](pair / "out/r3")
    with pytest.raises(OutputError, match=r"r3: is an adapter of the same models, but damaged.*--force"):
        known(pair, gguf=gguf)
