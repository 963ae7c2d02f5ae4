"""Files written tensor by tensor are the bytes that the library writes."""

from pathlib import Path

import torch
from safetensors.torch import save

from contextgraft.checkpoint.writer import order, save_tensors, write_tensors


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.randn(2).bfloat16(),
        "c.weight": torch.randn(4, 1).half(),
        "n": torch.arange(3),
        "empty": torch.empty(0, 4),
        "0": torch.tensor(1.5),
    }
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "x", specs, (tensors[name] for name in order(specs)))
    assert (tmp_path / "x").read_bytes() == save(tensors, metadata={"format": "pt"})
    turned = {
        name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in tensors.items()
    }
    save_tensors(tmp_path / "y", turned, metadata={"step": "3"})
    assert (tmp_path / "y").read_bytes() == save(tensors, metadata={"step": "3"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]
