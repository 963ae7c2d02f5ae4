"""JSON taken strictly: what it accepts is what the standard library says it is, and can be written again."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.checkpoint.strict_json import MAX_DEPTH, NotJson, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_honest_json_comes_back(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_json(raw) == parse_json(raw, unique=True) == value


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"1" * 301, "301 digits"),
        (b"1" * 5000, "5000 digits"),
        (b"[1e999]", "not finite: 1e999"),
        (b"-Infinity", "not finite: -Infinity"),
        (b"NaN", "not finite"),
        (b'{"\\uD83D":1}', "surrogate"),
        (b'["\\uDE00"]', "surrogate"),
        (b"[" * 100_000, "nesting"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nesting"),
    ],
)
def test_what_is_refused(raw: bytes, found: str) -> None:
    with pytest.raises(NotJson, match=found):
        parse_json(raw)


def test_what_is_accepted_at_the_limits() -> None:
    assert parse_json(b'"\\uD83D\\uDE00"') == "\U0001f600"
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert math.isfinite(float(parse_json(b"9" * 300)))
    assert isinstance(parse_json(b"-0"), float)
    assert parse_json(b'{"a":1,"a":2}') == {"a": 2}


def test_keys_twice_are_named() -> None:
    with pytest.raises(NotJson, match="'b' twice"):
        parse_json(b'[{"a":1,"b":{"b":1,"a":1,"b":2}}]', unique=True)
