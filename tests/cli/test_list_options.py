"""Every option with values separated by commas says so; an option that is repeated instead says that."""

import click
import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli
from contextgraft.cli.option_types import Choice, NumberList, RealNumber, WholeNumber

from .command_tree import commands

OPTIONS = [
    (words, option)
    for words, command in commands(cli)
    for option in command.params
    if isinstance(option, click.Option)
]
LISTS = [(words, option) for words, option in OPTIONS if isinstance(option.type, NumberList)]
REPEATED = [
    (words, option)
    for words, option in OPTIONS
    if option.multiple and isinstance(option.type, WholeNumber | RealNumber | Choice)
]


def names(found: list[tuple[str, click.Option]]) -> list[str]:
    return [f"{words} {option.opts[0]}" for words, option in found]


def error_line(words: str, option: click.Option, value: str) -> str:
    """What the command prints about a value; click reads the options that are given first."""
    done = CliRunner().invoke(cli, [*words.split(), option.opts[0], value])
    assert done.exit_code == 2
    return next(line for line in done.stderr.splitlines() if line.startswith("Error: "))


@pytest.mark.parametrize("value", ["8;32", "8 32", "8,,32", "[8,32]", "8|32", "8,32,", "eight", "", "8.5,x"])
@pytest.mark.parametrize(("words", "option"), LISTS, ids=names(LISTS))
def test_values_separated_by_commas(words: str, option: click.Option, value: str) -> None:
    line = error_line(words, option, value)
    assert "numbers separated by commas" in line
    assert line.endswith(f" in {value!r}" if "," in value else f"received {value!r}")


@pytest.mark.parametrize(("words", "option"), LISTS, ids=names(LISTS))
def test_a_list_is_read(words: str, option: click.Option) -> None:
    assert option.type.convert("8, 32", option, None) == (8, 32)


@pytest.mark.parametrize(("words", "option"), REPEATED, ids=names(REPEATED))
def test_an_option_that_is_repeated(words: str, option: click.Option) -> None:
    value = "4;8" if not isinstance(option.type, Choice) else ",".join(option.type.choices)
    assert error_line(words, option, value).endswith(f"; for several values repeat {option.opts[0]}")
    assert "repeat" not in error_line(words, option, "?")


def test_options_of_both_kinds_are_tried() -> None:
    assert {"init --ranks", "evaluate --lengths", "plan evaluation --depths"} <= set(names(LISTS))
    assert {"extract --rank", "evaluate --suite", "merge --scale"} <= set(names(REPEATED))
