"""-v and -q of every command, and an environment variable for every option."""

from pathlib import Path
from types import SimpleNamespace

import click
from click.testing import CliRunner

from contextgraft.cli.main import VERBS, cli

from .fork_server import fork_server


def commands() -> list[click.Command]:
    context = click.Context(cli)
    found = [cli.get_command(context, name) for name in VERBS]
    return [command for command in found if command is not None]


def test_every_command_has_both_once() -> None:
    for command in [*commands(), *commands()]:
        words = [word for parameter in command.params for word in parameter.opts]
        assert (words.count("--quiet"), words.count("-v")) == (1, 1), command.name


def run(folder: Path, *words: str) -> SimpleNamespace:
    done = fork_server().run(*words, folder=folder)
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)


def test_quiet_keeps_errors_and_verbose_shows_where_they_were_raised(tmp_path: Path) -> None:
    quiet = run(tmp_path, "inspect", "-q", "nowhere")
    assert quiet.err.startswith("contextgraft: error: ")
    verbose = run(tmp_path, "inspect", "-v", "nowhere")
    assert "Traceback" in verbose.err
    assert verbose.err.splitlines()[-1] == quiet.err.splitlines()[-1]
    both = run(tmp_path, "inspect", "-v", "-q", "nowhere")
    assert "-v and -q exclude each other" in both.err
    assert [done.status for done in (quiet, verbose, both)] == [2, 2, 2]


def test_an_option_may_come_from_the_environment() -> None:
    words = ["rope", "--context", "128", "--to", "1024"]
    given = CliRunner().invoke(cli, [*words, "--theta", "10000"])
    environment = CliRunner().invoke(cli, words, env={"CONTEXTGRAFT_ROPE_THETA": "10000"})
    assert given.exit_code == 0
    assert environment.output == given.output
    version = CliRunner().invoke(cli, words, env={"CONTEXTGRAFT_VERSION": "1"})
    assert "Missing option '--theta'" in version.output
