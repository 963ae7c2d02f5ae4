"""Fuzzed headers and indexes: what comes back is consistent, or one line; never what the library refuses."""

import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from contextgraft.checkpoint.model_folder import open_model, open_tensors
from contextgraft.errors import ContextgraftError

WORD = re.compile(rb'\d+|"[^"]*"|[^\s\w]|\w+')
NUMBER = re.compile(rb"\d+")
BYTES = {"F32": 4, "BF16": 2, "I64": 8, "I8": 1, "BOOL": 1}
SEEDS = [
    save({"x": torch.ones(3, 2), "y": torch.ones(5, dtype=torch.int8), "z": torch.ones(())}),
    save({"a.weight": torch.ones(2, 2).bfloat16(), "empty": torch.ones(0, 4)}, metadata={"format": "pt"}),
    save({}),
]
TOKENS = [
    b"-0", b"1e3", b"null", b"[]", b"{}", b"NaN", b"-Infinity", b'"F32"', b'"\\ud800"', b"\\u0000", b"\xff",
    b"\xef\xbb\xbf", b"18446744073709551616", b"9223372036854775807", b"__metadata__", b"data_offsets",
    b"shape", b",", b":", b'"', b" ", b"\n", b"0", b"1", b"8", b"24",
]  # fmt: skip
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        -1, 2**31, 2**62, 2**63, 2**64, 10**40, 1.0, -0.0, math.nan, math.inf, True, None,
        "1", "\ud800", "a\nb", "\x1b[2J", [], [0], {},
    ]
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "c", "__metadata__", "", "\ud800", "\x1b[31m"]) | st.text(max_size=3)
FEW = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=400
)
MANY = settings(FEW, max_examples=4_000)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid file with words and bytes of its header and data replaced, put in or taken out."""
    whole: bytes = draw(st.sampled_from(SEEDS))
    length = int.from_bytes(whole[:8], "little")
    header, data = bytearray(whole[8 : 8 + length]), whole[8 + length :]
    for _ in range(draw(st.integers(0, 2))):
        words = [match.span() for match in draw(st.sampled_from([WORD, NUMBER])).finditer(header)]
        at = draw(st.integers(0, len(header)))
        begin, end = draw(st.sampled_from([*words, (at, at), (at, at + 1)]))
        header[begin:end] = draw(st.sampled_from(TOKENS) | st.binary(max_size=2))
    claimed = len(header) + draw(st.sampled_from([0, 0, 0, 1, -1, 2**63]))
    return struct.pack("<Q", max(claimed, 0)) + header + data[: draw(st.integers(len(data) - 1, len(data)))]


@st.composite
def structures(draw: st.DrawFn) -> bytes:
    """A header made from tensors that fit together, with some lies, over data that fit or nearly."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BYTES))), draw(st.lists(st.integers(0, 4), max_size=3))
        begin = max(0, end + draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 4, -1])))
        end = begin + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    for name, entry in header.items():
        if draw(st.integers(0, 3)) == 0:
            header[name] = draw(st.sampled_from([lie_about, lie_inside]))(draw, entry)
    if draw(st.integers(0, 4)) == 0:
        header["__metadata__"] = draw(ODD | st.dictionaries(NAMES, st.just("x"), max_size=2))
    text = json.dumps(dict(sorted(header.items(), reverse=draw(st.booleans())))).encode()
    data = bytes(max(0, end + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))))
    return struct.pack("<Q", len(text)) + text + data


def lie_about(draw: st.DrawFn, entry: dict[str, Any]) -> Any:
    """Another value for a key, a key too many, or something else altogether."""
    key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "codec"]))
    return draw(st.sampled_from([{**entry, key: draw(ODD)}, draw(ODD)]))


def lie_inside(draw: st.DrawFn, entry: dict[str, Any]) -> Any:
    """Another number in a list."""
    key = draw(st.sampled_from(["shape", "data_offsets"]))
    values = [*entry[key], 0]
    values[draw(st.integers(0, len(values) - 1))] = draw(ODD | st.integers(0, 9))
    return {**entry, key: values[: len(entry[key]) + draw(st.booleans())]}


def library(path: Path) -> list[str] | None:
    """Names that the safetensors library finds; None where it refuses the file."""
    try:
        with safe_open(path, "pt") as file:
            return sorted(file.keys())
    except (SafetensorError, OSError):
        return None


def examine(path: Path) -> bool:
    """Whether the file is accepted; whatever is then said of it must hold, and the library must agree."""
    try:
        file = open_tensors(path)
    except ContextgraftError as error:
        one_line(error)
        return False
    end = file.data_begin
    for name, info in file.tensors.items():
        assert (info.name, info.begin) == (name, end)
        assert info.bytes == info.numel * BYTES.get(info.dtype, info.bytes // max(info.numel, 1))
        assert info.rows <= path.stat().st_size, "rows without end in a file of few bytes"
        end = info.end
    assert end == path.stat().st_size
    assert library(path) == sorted(file.tensors), "the library refuses it"
    return True


def one_line(error: ContextgraftError) -> None:
    assert str(error).isprintable(), repr(error)
    assert len(str(error)) < 2000


def both_answers(accepted: list[bool]) -> None:
    assert min(accepted.count(True), accepted.count(False)) >= 10, "the fuzzer does not reach both answers"


def fuzz(make: st.SearchStrategy[bytes], amount: settings, path: Path) -> list[bool]:
    """Examine many files; whether each was accepted."""
    accepted: list[bool] = []

    @amount
    @given(make)
    def run(raw: bytes) -> None:
        path.write_bytes(raw)
        accepted.append(examine(path))

    run()
    return accepted


@pytest.mark.parametrize("amount", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("make", [mutants, structures])
def test_headers(make: Callable[[], st.SearchStrategy[bytes]], amount: settings, tmp_path: Path) -> None:
    accepted = fuzz(make(), amount, tmp_path / "m.safetensors")
    both_answers(accepted)


@st.composite
def indexes(draw: st.DrawFn) -> bytes:
    """An index: right, wrong in an entry, any JSON, or broken bytes."""
    table: dict[str, Any] = {"a": "one.safetensors", "b": "two.safetensors"}
    shards = st.sampled_from(
        [
            "one.safetensors", "two.safetensors", "../m/one.safetensors", "/one.safetensors", "one.bin",
            "\ud800.safetensors", "\x1b[2J.safetensors", "a\nb.safetensors", "one.safetensors\0",
            "x" * 300 + ".safetensors", ".safetensors", "config.json",
        ]
    )  # fmt: skip
    what = draw(st.integers(0, 4))
    if what < 2:
        table[draw(NAMES)] = draw(shards | ODD)
    index = {"weight_map": draw(ODD) if what == 2 else table, "metadata": draw(ODD)}
    whole = draw(ODD) if what == 3 else index
    raw = bytearray(json.dumps(whole).encode())
    if draw(st.booleans()):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(TOKENS) | st.binary(max_size=2))
    return bytes(raw)


@pytest.mark.parametrize("amount", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json"])
def test_indexes_and_configs(name: str, amount: settings, tmp_path: Path) -> None:
    right = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(right))
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "two.safetensors")
    accepted: list[bool] = []

    @amount
    @given(indexes())
    def run(raw: bytes) -> None:
        (tmp_path / name).write_bytes(raw)
        accepted.append(opens(tmp_path))

    run()
    both_answers(accepted)


def opens(folder: Path) -> bool:
    """Whether the folder is accepted as a model; then all that is said of it must hold."""
    try:
        model = open_model(folder)
    except ContextgraftError as error:
        one_line(error)
        return False
    assert model.weight_map == {"a": "one.safetensors", "b": "two.safetensors"}
    assert {name: info.bytes for name, info in model.tensors.items()} == {"a": 8, "b": 12}
    json.dumps(model.config, allow_nan=False, ensure_ascii=False).encode()  # it can be written again
    return True
