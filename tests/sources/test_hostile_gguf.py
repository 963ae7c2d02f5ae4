"""GGUF files whose metadata or tensors lie: one line, and nothing is left behind."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest

from contextgraft.errors import CheckpointError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.gguf import headers, model, tokenizer

LIES: dict[str, dict[str, Any]] = {
    "no heads": {"llama.attention.head_count": 0},
    "fewer than no heads": {"llama.attention.head_count": -4},
    "heads as text": {"llama.attention.head_count": "4"},
    "heads by layer": {"llama.attention.head_count": [4, 4]},
    "heads that rows do not divide into": {"llama.attention.head_count": 7},
    "no heads of keys": {"llama.attention.head_count_kv": 0},
    "more heads of keys": {"llama.attention.head_count_kv": 3},
    "size of a head": {"llama.attention.key_length": 17},
    "hidden size": {"llama.embedding_length": 63},
    "no layers": {"llama.block_count": 0},
    "epsilon as text": {"llama.attention.layer_norm_rms_epsilon": "x"},
    "no context": {"llama.context_length": 0},
    "theta as a list": {"llama.rope.freq_base": [1]},
    "a merge outside the vocabulary": {"tokenizer.ggml.merges": ["q zz"]},
    "a merge of one word": {"tokenizer.ggml.merges": ["q"]},
    "merges of numbers": {"tokenizer.ggml.merges": [1, 2]},
    "begin token outside": {"tokenizer.ggml.bos_token_id": 10**6, "tokenizer.ggml.add_bos_token": True},
    "begin token below": {"tokenizer.ggml.bos_token_id": -1, "tokenizer.ggml.add_bos_token": True},
    "end token outside": {"tokenizer.ggml.eos_token_id": 10**6},
    "padding as text": {"tokenizer.ggml.padding_token_id": "x"},
    "unknown token outside": {"tokenizer.ggml.unknown_token_id": 10**9},
    "tokens of numbers": {"tokenizer.ggml.tokens": [1, 2]},
    "fewer types than tokens": {"tokenizer.ggml.token_type": [1]},
    "tokenizer as a list": {"tokenizer.ggml.model": ["gpt2"]},
    "words as a list": {"tokenizer.ggml.pre": ["gpt-2"]},
    "architecture as a list": {"general.architecture": ["llama"]},
}


def lie(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], tensors: Any = None) -> None:
    """Readers return these values instead of those of the file."""
    read = model.open_gguf

    def changed(path: Path) -> Any:
        reader = read(path)
        content = {name: field.contents() for name, field in reader.fields.items()} | values
        fields = {
            name: SimpleNamespace(contents=lambda value=value: value) for name, value in content.items()
        }
        return SimpleNamespace(fields=fields, tensors=reader.tensors if tensors is None else tensors(reader))

    monkeypatch.setattr(model, "open_gguf", changed)
    monkeypatch.setattr(headers, "open_gguf", changed)


def refused(path: Path, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        fetch(str(path), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", LIES)
def test_metadata_that_lies(
    gguf_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lie(monkeypatch, LIES[name])
    refused(gguf_model.path, tmp_path)
    with pytest.raises(CheckpointError):
        headers.open_gguf_headers(gguf_model.path, tmp_path / "cache")


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.I8, gguf.GGMLQuantizationType.I32])
def test_weights_that_are_whole_numbers(
    gguf_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    def tensors(reader: Any) -> list[Any]:
        return [
            tensor._replace(tensor_type=kind) if tensor.name == "blk.0.ffn_up.weight" else tensor
            for tensor in reader.tensors
        ]

    lie(monkeypatch, {}, tensors)
    assert "cannot be dequantised" in refused(gguf_model.path, tmp_path)


def test_a_full_disk_is_not_the_files_fault(tmp_path: Path) -> None:
    class Full:
        def save_pretrained(self, _: Path) -> None:
            raise Exception("No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left") as error:
        tokenizer.save_tokenizer(Full(), tmp_path)
    assert error.value.errno == errno.ENOSPC
