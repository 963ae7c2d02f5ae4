"""Headers of safetensors files: honest ones are read in any order, lying ones are refused in one line."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.errors import CheckpointError, PickleRefused


def forge(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_any_order_of_the_header_gives_the_same(tmp_path: Path) -> None:
    parts = {"b": entry(8, 16), "a": entry(0, 8), "empty": entry(16, 16, [0, 3]), "s": entry(16, 20, [])}
    there = open_tensors(forge(tmp_path / "x.safetensors", parts, bytes(20))).tensors
    back = open_tensors(forge(tmp_path / "x.safetensors", dict(reversed(parts.items())), bytes(20))).tensors
    assert there == back
    assert list(there) == ["a", "b", "empty", "s"]


def test_places_and_metadata_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    file = open_tensors(tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    assert raw[file["x"].begin : file["x"].end] == tensors["x"].numpy().tobytes()
    assert (file["y"].dtype, file["y"].shape, file["y"].bytes, file.metadata) == (
        "BF16",
        (4,),
        8,
        {"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="no tensor 'z'"):
        file["z"]


TWICE = b'"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}'
LIES: dict[str, tuple[Any, bytes]] = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "same place twice": ({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "gap": ({"a": entry(0, 8), "b": entry(12, 16)}, bytes(16)),
    "does not begin at zero": ({"a": entry(4, 8)}, bytes(8)),
    "outside the file": ({"a": entry(0, 800)}, bytes(8)),
    "bytes left over": ({"a": entry(0, 8)}, bytes(9)),
    "shape too large": ({"a": entry(0, 8, [3])}, bytes(8)),
    "shape too small": ({"a": entry(0, 8, [1])}, bytes(8)),
    "huge product": ({"a": entry(0, 8, [2**62, 2**62])}, bytes(8)),
    "negative shape": ({"a": entry(0, 8, [-2])}, bytes(8)),
    "two negatives": ({"a": entry(0, 8, [-1, -2])}, bytes(8)),
    "fractional shape": ({"a": entry(0, 8, [2.0])}, bytes(8)),
    "boolean shape": ({"a": entry(0, 4, [True])}, bytes(4)),
    "shape no list": ({"a": entry(0, 8, "2")}, bytes(8)),
    "offsets backwards": ({"a": entry(8, 0, [2])}, bytes(8)),
    "negative offset": ({"a": entry(-8, 0, [2])}, bytes(8)),
    "three offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, bytes(8)),
    "unknown dtype": ({"a": entry(0, 8, dtype="F31")}, bytes(8)),
    "dtype no string": ({"a": entry(0, 8, dtype=["F32"])}, bytes(8)),
    "missing key": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "extra key": ({"a": {**entry(0, 8), "codec": "x"}}, bytes(8)),
    "entry no object": ({"a": 7}, b""),
    "metadata no strings": ({"__metadata__": {"n": 1}, "a": entry(0, 8)}, bytes(8)),
    "minus zero": (b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[-0,1]}}', bytes(1)),
    "product hidden by zero": ({"a": entry(0, 0, [2**62, 2**62, 0])}, b""),
    "rows without end": ({"a": entry(0, 0, [2**50, 0])}, b""),
    "dimensions without end": ({"a": entry(0, 4, [1] * 65)}, bytes(4)),
    "name without end": ({"x" * 1001: entry(0, 4)}, bytes(4)),
    "an unpaired surrogate": (b'{"\\ud800":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', bytes(1)),
    "metadata a list": ({"__metadata__": [], "a": entry(0, 8)}, bytes(8)),
    "list": ([], b""),
    "number": (7, b""),
    "not JSON": (b"{" * 10, b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "nested beyond reason": (b"[" * 100_000, b""),
    "duplicate name": (b"{" + b",".join([TWICE] * 2) + b"}", bytes(1)),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused(tmp_path: Path, lie: str) -> None:
    path = forge(tmp_path / "m.safetensors", *LIES[lie])
    with pytest.raises(CheckpointError) as caught:
        open_tensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("raw", [b"", b"\x01", struct.pack("<Q", 2**63), struct.pack("<Q", 50) + b"{}"])
def test_files_too_short_for_their_header(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="well-formed"):
        open_tensors(tmp_path / "m.safetensors")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_renamed_pickles_are_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"a": [1] * 20}, protocol=protocol))
    with pytest.raises(PickleRefused, match="pickle"):
        open_tensors(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(PickleRefused, match="save_pretrained"):
        open_tensors(path)


@given(st.data())
def test_no_flipped_or_cut_byte_gives_anything_but_an_error_or_tensors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(save({"x": torch.ones(3, 2), "y": torch.ones(1, dtype=torch.int8)}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(raw)
    try:
        file = open_tensors(path)
    except CheckpointError:
        return
    assert all(0 <= info.begin <= info.end <= len(raw) for info in file.tensors.values())


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_an_honest_header_whose_length_begins_like_a_pickle(tmp_path: Path, length: int) -> None:
    header = json.dumps({"a": entry(0, 4)}).encode()
    path = forge(tmp_path / "m.safetensors", header + b" " * (length - len(header)), bytes(4))
    assert open_tensors(path)["a"].begin == 8 + length
