"""What an output holds already: the same source is recognised, a changed or damaged copy never is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from contextgraft.errors import OutputError
from contextgraft.sources.conversion import Conversion
from contextgraft.sources.fetch import fetch
from contextgraft.sources.fetched import check_fetched, fetched_already
from contextgraft.sources.hub.client import Hub


@pytest.fixture
def source(model_folder: Path) -> Path:
    (model_folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (model_folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (model_folder / "chat_template.jinja").write_text("{{ messages }}")
    return model_folder


def edit(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def moved(folder: Path) -> None:
    """Other weights of the same names and shapes."""
    path = folder / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


CHANGES: dict[str, Callable[[Path], object]] = {
    "chat template": lambda folder: (folder / "chat_template.jinja").write_text("other"),
    "no chat template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "tokenizer": lambda folder: edit(folder / "tokenizer.json", version="2"),
    "tokenizer config": lambda folder: edit(folder / "tokenizer_config.json", eos_token="<end>"),
    "eos": lambda folder: edit(folder / "config.json", eos_token_id=7),
    "sliding window": lambda folder: edit(folder / "config.json", sliding_window=64),
    "new file": lambda folder: (folder / "special_tokens_map.json").write_text("{}"),
    "weights": moved,
}


def test_the_same_source_is_recognised(source: Path, tmp_path: Path) -> None:
    record = fetch(str(source), tmp_path / "out")
    assert fetched_already(str(source), tmp_path / "out", Hub()) == record
    assert set(record["files"]) == {path.name for path in source.iterdir()}
    for conversion in (Conversion(convert_pickles=True), Conversion(dequantise=True)):
        assert fetched_already(str(source), tmp_path / "out", Hub(), conversion=conversion) is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_is_not_recognised(source: Path, tmp_path: Path, change: str) -> None:
    fetch(str(source), tmp_path / "out")
    CHANGES[change](source)
    assert fetched_already(str(source), tmp_path / "out", Hub()) is None


DAMAGES: dict[str, Callable[[Path], object]] = CHANGES | {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut weights": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "no config": lambda folder: (folder / "config.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_output_is_said(source: Path, tmp_path: Path, damage: str) -> None:
    fetch(str(source), tmp_path / "out")
    DAMAGES[damage](tmp_path / "out")
    with pytest.raises(OutputError, match="--force"):
        fetched_already(str(source), tmp_path / "out", Hub())
    fetch(str(source), tmp_path / "out", replace=True)
    assert fetched_already(str(source), tmp_path / "out", Hub())


def test_adapters_in_folders_are_checked_but_not_recognised(tmp_path: Path) -> None:
    import torch

    source, out = tmp_path / "adapter", tmp_path / "out"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(9)}, source / "adapter_model.safetensors")
    fetch(str(source), out)
    assert fetched_already(str(source), out, Hub()) is None
    check_fetched(out)
    (out / "adapter_config.json").write_text('{"r": 2}')
    with pytest.raises(OutputError, match="adapter_config"):
        check_fetched(out)
