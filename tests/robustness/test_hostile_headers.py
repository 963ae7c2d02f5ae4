"""Weights files that lie: `extract` meets them in its donor, `merge` in its adapter; one line from both."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BAD = "is not a well-formed safetensors file"


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    whole = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": whole, "data_offsets": [begin, end]}


def forged(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """A file of this header and as many bytes of data; `length` is what it claims of the header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def raw_entry(fields: str) -> bytes:
    return f'{{"a":{{"dtype":"F32",{fields}}}}}'.encode()


def many_names(last: str) -> bytes:
    """Some hundred thousand tensors without data, and one more."""
    names = (f'"n{number}":{{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}' for number in range(200_000))
    return f'{{{",".join(names)},"{last}":{{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}}}'.encode()


def sparse(path: Path, length: int, size: int) -> None:
    """A file that claims a header of that length, with nothing in it."""
    path.write_bytes(struct.pack("<Q", length) + b"{")
    with path.open("r+b") as file:
        file.truncate(size)


def torch_pickle(legacy: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


LIES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "overlap": (forged({"a": entry(0, 8), "b": entry(4, 12)}, 12), "an overlap: byte"),
    "same place twice": (forged({"a": entry(0, 8), "b": entry(0, 8)}, 8), "an overlap"),
    "gap": (forged({"a": entry(0, 8), "b": entry(12, 16)}, 16), "a gap: byte"),
    "begins late": (forged({"a": entry(4, 8)}, 8), "a gap"),
    "ends outside": (forged({"a": entry(0, 800)}, 8), "truncated"),
    "trailing bytes": (forged({"a": entry(0, 8)}, 9), "unclaimed bytes follow"),
    "truncated data": (forged({"a": entry(0, 8)}, 7), "truncated"),
    "shape and size differ": (forged({"a": entry(0, 8, [3])}, 8), "expected 12 bytes for 'a'"),
    "backwards": (forged({"a": entry(8, 0, [2])}, 8), "expected 8 bytes"),
    "negative offset": (forged({"a": entry(-8, 0, [2])}, 8), "non-negative whole numbers"),
    "negative shape": (forged({"a": entry(0, 8, [-2])}, 8), "non-negative whole numbers"),
    "two negatives": (forged({"a": entry(0, 8, [-1, -2])}, 8), "non-negative whole numbers"),
    "fractional shape": (forged({"a": entry(0, 8, [2.0])}, 8), "non-negative whole numbers"),
    "boolean shape": (forged({"a": entry(0, 4, [True])}, 4), "non-negative whole numbers"),
    "minus zero": (forged(raw_entry('"shape":[1],"data_offsets":[-0,4]'), 4), "non-negative whole numbers"),
    "shape no list": (forged({"a": entry(0, 8, "2")}, 8), "non-negative whole numbers"),
    "shape of escapes": (forged({"a": entry(0, 8, "\x1b[31m")}, 8), "non-negative whole numbers"),
    "product overflows": (forged({"a": entry(0, 8, [2**62, 2**62])}, 8), r"below 2\^63 bytes"),
    "product wraps to size": (forged({"a": entry(0, 8, [2**62 + 1, 2**1])}, 8), r"below 2\^63 bytes"),
    "product hidden by zero": (forged({"a": entry(0, 0, [2**62, 2**62, 0])}), r"below 2\^63 bytes"),
    "product without end": (forged({"a": entry(0, 8, [2**62] * 100_000)}, 8), "non-negative whole numbers"),
    "dimensions without end": (forged({"a": entry(0, 4, [1] * 100_000)}, 4), "non-negative whole numbers"),
    "rows without end": (forged({"model.layers.0.x.weight": entry(0, 0, [2**50, 0])}), "no more rows"),
    "unknown dtype": (forged({"a": entry(0, 8, dtype="F31")}, 8), "a known dtype for 'a'"),
    "dtype no string": (forged({"a": entry(0, 8, dtype=["F32"])}, 8), "a known dtype for 'a'"),
    "missing key": (forged({"a": {"dtype": "F32", "shape": [2]}}, 8), "dtype, shape and data_offsets"),
    "extra key": (forged({"a": {**entry(0, 8), "codec": "x"}}, 8), "dtype, shape and data_offsets"),
    "three offsets": (forged(raw_entry('"shape":[2],"data_offsets":[0,4,8]'), 8), "non-negative whole"),
    "entry no object": (forged({"a": 7}), "dtype, shape and data_offsets"),
    "entry of escapes": (forged({"a": "\x1b[2J"}), r"received '\\x1b\[2J'"),
    "metadata of numbers": (forged({"__metadata__": {"n": 1}, "a": entry(0, 8)}, 8), "__metadata__ of str"),
    "metadata a list": (forged({"__metadata__": [], "a": entry(0, 8)}, 8), "__metadata__ of strings"),
    "integer of 5000 digits": (forged(raw_entry(f'"shape":[{"9" * 5000}]')), "a number of 5000 digits"),
    "integer of 400 digits": (forged(raw_entry(f'"shape":[{"9" * 400}]')), "a number of 400 digits"),
    "infinite by exponent": (forged(raw_entry('"shape":[1e400]')), "not finite: 1e400"),
    "NaN": (forged(raw_entry('"shape":[NaN]')), "not finite: NaN"),
    "list": (forged([]), "JSON object as header; received list"),
    "null": (forged(b"null"), "received NoneType"),
    "no JSON": (forged(b"{" * 10), "not JSON"),
    "no UTF-8": (forged(b'{"\xff":1}'), "not JSON"),
    "byte order mark": (forged(b"\xef\xbb\xbf{}"), "not JSON"),
    "lists nested deep": (forged(b"[" * 100_000), "too deep nesting"),
    "objects nested deep": (forged(b'{"a":' * 500 + b"1" + b"}" * 500), "too deep nesting"),
    "duplicate name": (forged(b'{"a":{},"a":{}}'), "'a' twice"),
    "duplicate among many": (forged(many_names("n199999")), "'n199999' twice"),
    "an unpaired surrogate": (forged(b'{"\\ud800":{}}'), "an unpaired surrogate"),
    "endless name": (forged({"x" * 1_000_000: entry(0, 8)}, 8), "names of at most 1000"),
    "escapes in a name": (forged({"\x1b[2J\n\r": entry(0, 8, [3])}, 8), r"'\\x1b\[2J\\n\\r'"),
    "no tensors": (forged({}), "no such tensor|holds no factors"),
    "empty file": (b"", "file's 0 bytes"),
    "half a length": (b"\x10\0\0\0", "file's 4 bytes"),
    "length only": (struct.pack("<Q", 0), "file's 8 bytes"),
    "length 2**63": (forged({}, length=2**63), f"a length of {2**63}"),
    "length 2**64 - 1": (forged({}, length=2**64 - 1), f"a length of {2**64 - 1}"),
    "length beyond the file": (forged({}, length=3), "a length of 3"),
    "length beyond the limit": (lambda path: sparse(path, 100_000_001, 200_000_000), "a length of 100000001"),
    "100 MB of nothing": (lambda path: sparse(path, 100_000_000, 100_000_008), "not JSON"),
    **{f"pickle {n}": (pickle.dumps(Bomb(), protocol=n), "is a pickle.*_pretrained") for n in range(2, 6)},
    "pickle in a zip": (torch_pickle(legacy=False), "is a pickle.*never loaded"),
    "pickle of old": (torch_pickle(legacy=True), "is a pickle.*never loaded"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", BAD),
}  # fmt: skip


def put(path: Path, lie: bytes | Callable[[Path], object]) -> None:
    if isinstance(lie, bytes):
        path.write_bytes(lie)
    else:
        lie(path)


@pytest.mark.parametrize("name", LIES)
def test_in_the_donor(sandbox: Any, name: str) -> None:
    lie, words = LIES[name]
    for file in sandbox["donor"].glob("model*"):
        file.unlink()
    put(sandbox["donor"] / "model.safetensors", lie)
    sandbox.refuses("extract", words)


@pytest.mark.parametrize("name", LIES)
def test_in_the_adapter(sandbox: Any, name: str) -> None:
    lie, words = LIES[name]
    put(sandbox["adapter"] / "adapter_model.safetensors", lie)
    sandbox.refuses("merge", words)
