import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.errors import CheckpointError
from contextgraft.formats.model.vocabulary import compare, read_vocabulary


def folder(path: Path, tokenizer: Any) -> ModelFolder:
    (path / "config.json").write_text("{}")
    save_file({"x": torch.ones(1)}, path / "model.safetensors")
    if tokenizer is not None:
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return open_model(path)


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (None, None),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<x>", "id": 1}]}, {"a": 0, "<x>": 1}),
        ({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}, {"a": 0, "b": 1}),
    ],
)
def test_every_kind_of_tokenizer_file(tmp_path: Path, tokenizer: Any, expected: Any) -> None:
    assert read_vocabulary(folder(tmp_path, tokenizer)) == expected


@pytest.mark.parametrize(
    "tokenizer", [{}, {"model": {}}, {"model": {"vocab": 3}}, {"model": {"vocab": {"a": "x"}}}]
)
def test_a_malformed_file_gives_one_line(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CheckpointError, match="no readable vocabulary"):
        read_vocabulary(folder(tmp_path, tokenizer))


def test_comparison_by_text_and_id() -> None:
    found = compare({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 2, "d": 1})
    assert (found.same, found.moved, found.only_base, found.only_model) == (1, ("b",), ("c",), ("d",))
