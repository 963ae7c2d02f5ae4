"""Reading by rows: what comes in blocks is what the library reads whole."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from contextgraft.checkpoint.model_folder import open_tensors
from contextgraft.checkpoint.reader import DTYPES, read_rows, read_tensor
from contextgraft.checkpoint.tensor_bytes import byte_blocks, expect_bytes
from contextgraft.errors import CheckpointError


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 7), max_size=3),
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 200),
)
def test_blocks_make_up_the_tensor(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: str, max_bytes: int
) -> None:
    tensor = (torch.randn(shape) * 3).to(DTYPES[dtype])
    path = tmp_path_factory.getbasetemp() / "rows.safetensors"
    save_file({"before": torch.ones(3), "x": tensor}, path)
    file = open_tensors(path)
    assert torch.equal(read_tensor(file, "x"), tensor)
    rows = [read_rows(file, "x", row, row + 1).reshape(-1) for row in range(file["x"].rows)]
    assert torch.equal(torch.cat([tensor.reshape(-1)[:0], *rows]), tensor.reshape(-1))
    blocks = [bytes(block) for block in byte_blocks(file, file["x"], max_bytes)]
    assert all(len(block) <= max_bytes for block in blocks)
    assert b"".join(blocks) == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_file_cut_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(100, 10)}, path)
    file = open_tensors(path)
    with path.open("r+b") as handle:
        handle.truncate(file["x"].end - 1)
    assert torch.equal(read_rows(file, "x", 0, 99), torch.ones(99, 10))
    with pytest.raises(CheckpointError, match="ends inside tensor 'x'"):
        read_rows(file, "x", 99, 100)


def test_a_file_gone_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(4)}, path)
    file = open_tensors(path)
    path.unlink()
    expect_bytes(file, file["x"], 0, 16)
    with pytest.raises(CheckpointError, match=r"m.safetensors: cannot be read; received No such file"):
        read_rows(file, "x", 0, 1)


def test_dtypes_that_cannot_be_computed_with(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        read_rows(open_tensors(path), "x", 0, 1)


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(4)}, path)
    with pytest.raises(IndexError):
        read_rows(open_tensors(path), "x", 2, 5)
