"""JSON of others: parsed strictly, within limits."""

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any

MAX_DEPTH = 100  # objects and lists inside one another
MAX_DIGITS = 300  # of an integer: longer ones exceed the range of a float
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(ValueError):  # noqa: N818 - named for what the bytes are
    """Bytes that are not JSON, or cannot be written as JSON again; the message says what they are instead."""


def parse_json(raw: bytes, *, unique: bool = False, finite: bool = True) -> Any:
    """The value of UTF-8 JSON; with `unique`, no object may have a key twice.

    Also rejected: numbers that are not finite (unless `finite` is false), unpaired surrogates, deep nesting.
    """
    if raw.startswith(BOM_UTF8):
        raise NotJson("bytes that are not JSON: a byte order mark is in front")
    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=_finite if finite else float,
            parse_constant=_finite if finite else float,
            object_pairs_hook=_unique if unique else None,
        )
    except RecursionError:
        raise NotJson("too deep nesting") from None
    except NotJson:
        raise
    except ValueError:
        raise NotJson("bytes that are not JSON") from None
    _check_depth(value)
    if SURROGATE.search(text):
        _check_surrogates(value)
    return value


def _whole(text: str) -> int | float:
    if len(text) > MAX_DIGITS:
        raise NotJson(f"a number of {len(text)} digits")
    return -0.0 if text == "-0" else int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"a number that is not finite: {text}"[:60])
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise NotJson(f"{name[:80]!r} twice")
        table[name] = value
    return table


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise NotJson("too deep nesting")


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJson("an unpaired surrogate, which is not text") from None
