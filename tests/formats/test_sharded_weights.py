"""Weights above a size are several files with an index; below it, the one file that they always were."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from contextgraft.checkpoint.writer import order
from contextgraft.formats.model.sharded_weights import write_weights

TENSORS = {
    "b": torch.randn(3, 5),  # 60 bytes
    "a": torch.randn(8).bfloat16(),  # 16
    "c.weight": torch.randn(4, 1).half(),  # 8
    "n": torch.arange(3),  # 24
    "empty": torch.empty(0, 4),
}
SPECS = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
INDEX = "model.safetensors.index.json"
BYTES = 108


def values() -> Iterator[torch.Tensor]:
    return (TENSORS[name] for name in order(SPECS))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_up_to_the_size_it_is_one_file(tmp_path: Path) -> None:
    write_weights(tmp_path, SPECS, values(), BYTES)
    assert names(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == save(TENSORS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (BYTES - 1, [["n", "b", "empty", "a"], ["c.weight"]]),  # the order of one file
        (84, [["b", "empty", "n"], ["a", "c.weight"]]),
        (76, [["n"], ["a", "b", "empty"], ["c.weight"]]),
        (1, [["n"], ["b"], ["empty"], ["a"], ["c.weight"]]),
    ],
)
def test_above_it_each_file_is_as_full_as_fits(tmp_path: Path, size: int, expected: list[list[str]]) -> None:
    write_weights(tmp_path, SPECS, values(), size)
    count = len(expected)
    shards = [f"model-0000{number}-of-0000{count}.safetensors" for number in range(1, count + 1)]
    assert names(tmp_path) == [*shards, INDEX]
    for shard, held in zip(shards, expected, strict=True):
        stored = {name: TENSORS[name] for name in held}
        assert (tmp_path / shard).read_bytes() == save(stored, metadata={"format": "pt"})
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    files = {name: shard for shard, held in zip(shards, expected, strict=True) for name in held}
    assert index == {"metadata": {"total_size": BYTES}, "weight_map": files}


@pytest.mark.parametrize(("before", "after"), [(1, 84), (84, 1), (1, BYTES), (BYTES, 1)])
def test_what_an_interrupted_call_left_is_removed(tmp_path: Path, before: int, after: int) -> None:
    def interrupted() -> Iterator[torch.Tensor]:
        yield from list(values())[:4]
        raise KeyboardInterrupt

    write_weights(tmp_path, SPECS, values(), before)
    (tmp_path / ".model-00007-of-00009.safetensors.partial").touch()  # of a process that was killed
    (tmp_path / "state.safetensors").touch()
    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path, SPECS, interrupted(), before)
    assert not [name for name in names(tmp_path) if name.endswith((".partial", INDEX))]
    write_weights(tmp_path, SPECS, values(), after)
    (tmp_path / "state.safetensors").unlink()
    held = [name for shard in tmp_path.glob("*.safetensors") for name in load_file(shard)]
    assert sorted(held) == sorted(TENSORS)
    assert (tmp_path / INDEX).exists() is (after < BYTES)
