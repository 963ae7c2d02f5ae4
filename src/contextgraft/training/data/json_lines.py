"""Files of training data with one JSON value on each line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from contextgraft.config.text_file import read_text_file, split_lines
from contextgraft.errors import InputError

T = TypeVar("T")


def read_json_lines(path: Path, kind: str, expected: str, parse: Callable[[Any], T | None]) -> list[T]:
    """Every line that is not empty, as `parse` reads its value; InputError names one for which it gives None.

    `kind` is what a line has, for messages. A line that is no JSON is parsed as None.
    """
    try:
        lines = split_lines(read_text_file(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {kind}s", path=path, received=str(error)) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = parse(_value(line))
            if row is None:
                raise InputError(f"line {number} is not a {kind}", path=path, expected=expected)
            rows.append(row)
    if not rows:
        raise InputError(f"contains no {kind}s", path=path, expected=expected)
    return rows


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
