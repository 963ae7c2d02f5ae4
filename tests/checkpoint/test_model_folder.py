"""Model folders: one file or shards, and what is refused about them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputError, PickleRefused


def test_one_file_and_shards_hold_the_same_tensors(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    tensors = toy.weights(config)
    one = open_model(toy.write(tmp_path / "one", tensors, config))
    many = open_model(toy.write(tmp_path / "many", tensors, config, shards=5))
    assert list(one.tensors) == list(many.tensors) == sorted(tensors)
    assert (len(one.shards), len(many.shards)) == (1, 5)
    assert one.others == many.others == ("tokenizer.json", "tokenizer_config.json")
    assert set(many.weight_map.values()) == set(many.shards)
    with pytest.raises(CheckpointError, match="no tensor"):
        one["nothing"]


def test_others_go_into_folders_but_not_into_hidden_ones(toy: SimpleNamespace, tmp_path: Path) -> None:
    path = toy.write(tmp_path / "m", {"a": torch.ones(1)}, toy.config())
    for name in ("chat/one.jinja", ".git/config", ".cache/x"):
        (path / name).parent.mkdir()
        (path / name).touch()
    assert open_model(path).others == ("chat/one.jinja", "tokenizer.json", "tokenizer_config.json")


INDEXES: dict[str, Any] = {
    "traversal": {"weight_map": {"a": "../secret.safetensors"}},
    "absolute": {"weight_map": {"a": "/etc/secret.safetensors"}},
    "below": {"weight_map": {"a": "sub/x.safetensors"}},
    "backslash": {"weight_map": {"a": "..\\x.safetensors"}},
    "nul": {"weight_map": {"a": "x\0.safetensors"}},
    "no name": {"weight_map": {"a": ".safetensors"}},
    "other kind": {"weight_map": {"a": "config.json"}},
    "newline": {"weight_map": {"a": "a\nb.safetensors"}},
    "an unpaired surrogate": {"weight_map": {"a": "\ud800.safetensors"}},
    "name without end": {"weight_map": {"a": "x" * 300 + ".safetensors"}},
    "no string": {"weight_map": {"a": 7}},
    "no map": {},
    "empty map": {"weight_map": {}},
    "list": [],
    "missing shard": {"weight_map": {"a": "absent.safetensors"}},
    "tensor elsewhere": {"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}},
    "tensor nowhere": {
        "weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    },
    "tensor unlisted": {"weight_map": {"a": "one.safetensors"}},
}


@pytest.mark.parametrize("lie", INDEXES)
def test_lying_indexes_are_refused(tmp_path: Path, lie: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file(
        {"a": torch.ones(1), **({"z": torch.ones(1)} if "unlisted" in lie else {})},
        tmp_path / "one.safetensors",
    )
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(INDEXES[lie]))
    with pytest.raises(CheckpointError) as caught:
        open_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="two shards"):
        open_model(tmp_path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(PickleRefused, match="save_pretrained"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    with pytest.raises(PickleRefused):
        open_model(tmp_path)


def test_other_files_have_names_that_can_be_written_down(toy: SimpleNamespace, tmp_path: Path) -> None:
    path = toy.write(tmp_path / "m", {"a": torch.ones(1)}, toy.config())
    Path(os.fsdecode(bytes(path) + b"/\xff.txt")).touch()
    with pytest.raises(CheckpointError, match="name is not text"):
        open_model(path)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such model folder; expected a folder .*; received"):
        open_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weights"):
        open_model(tmp_path)
    for text in ("{", "[]", "\xff", "[" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config.json"):
            open_model(tmp_path)
