"""The help of every command: plain words for numbers, and an example that the command accepts."""

import shlex
from collections.abc import Iterator

import click
import pytest

from contextgraft.cli.main import cli


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that runs something, by its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(commands(cli, "contextgraft"))


@pytest.mark.parametrize("words", COMMANDS)
def test_bounds_are_words(words: str) -> None:
    text = COMMANDS[words].get_help(click.Context(COMMANDS[words], info_name=words))
    for symbol in ("RANGE", "x>", "x<", "<x", "<=", "None"):
        assert symbol not in text


@pytest.mark.parametrize("words", COMMANDS)
def test_an_example_is_what_the_command_accepts(words: str) -> None:
    command = COMMANDS[words]
    _, heading, example = (command.epilog or "").partition("Example:\n")
    assert heading, f"{words} --help has no example"
    for line in example.replace("\\\n", " ").splitlines():
        given = shlex.split(line)
        name = shlex.split(words)
        assert given[: len(name)] == name
        command.make_context(words, given[len(name) :])  # raises UsageError for what it does not know
