"""Text of others reaches a terminal without control characters, and JSON stays JSON."""

import json
import re
from pathlib import Path

import pytest

import contextgraft
from contextgraft.cli.output import echo, print_json, print_lines, print_table
from contextgraft.errors import printable_lines

HOSTILE = "\x1b]0;x\x07\x1b[2J\x9b31m\r\x08\u202e\u2066\ud800 é数"


def shown(text: str) -> set[str]:
    """Characters that are neither printable nor the end of a line."""
    return {letter for letter in text if not letter.isprintable() and letter != "\n"}


@pytest.mark.parametrize("err", [False, True])
def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str], err: bool) -> None:
    echo(f"a\n{HOSTILE}", err=err)
    print_lines(["a", HOSTILE])
    print_table([HOSTILE[:-4]], ["n"], [[HOSTILE, HOSTILE]])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not shown(text)
    assert "\\x1b]0;x\\x07" in text
    assert "é数" in text


@pytest.mark.parametrize("ensure_ascii", [False, True])
def test_json_is_escaped_as_json(capsys: pytest.CaptureFixture[str], ensure_ascii: bool) -> None:
    value = {HOSTILE: [HOSTILE, "\n\U000e0001"]}
    print_json(value, ensure_ascii=ensure_ascii)
    text = capsys.readouterr().out
    assert not shown(text)
    assert json.loads(text) == value


def test_lines_are_kept() -> None:
    assert printable_lines("a\n\tb\r\n") == "a\n\\tb\\r\n"


def test_commands_print_by_these_functions_only() -> None:
    """A call of click.echo elsewhere would print what it is given."""
    folder = Path(contextgraft.__file__).parent
    sources = [path for path in folder.rglob("*.py") if path.name != "output.py"]
    assert not [path.name for path in sources if re.search(r"click\.s?echo\(", path.read_text())]
