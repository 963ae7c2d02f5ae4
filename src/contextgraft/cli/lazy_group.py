"""Groups of commands whose modules are imported only when a command runs, so that --help needs none."""

import importlib
from collections.abc import Mapping
from typing import Any

import click
from typing_extensions import override

from contextgraft.cli.options import name_options
from contextgraft.cli.verbosity import verbosity_options
from contextgraft.errors import OutputError


class LazyGroup(click.Group):
    """`verbs` maps names to one line of help; verb `a-b` is the `command` of module `<package>.a_b`.

    Every command gets -v and -q.
    """

    def __init__(self, *arguments: Any, verbs: Mapping[str, str], package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verbs = verbs
        self.package = package

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(f"{self.package}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        if not any("--quiet" in parameter.opts for parameter in command.params):
            command.params = [*command.params, *verbosity_options()]
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # click suggests only commands that are loaded
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.verbs, ctx=ctx
            ) from None

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.MissingParameter as error:
            raise all_missing(error) from None
        except OutputError as error:
            name_options(error, ctx)
            raise

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))


def all_missing(error: click.MissingParameter) -> click.UsageError:
    """The same error; if more required parameters are missing, one that names all of them."""
    context = error.ctx
    if context is None:
        return error
    # click reads the parameters that were given first: the others are not in the context yet
    missing = [
        parameter.get_error_hint(context)
        for parameter in context.command.params
        if parameter.required
        and parameter.name not in context.params
        and parameter.value_from_envvar(context) is None
    ]
    if len(missing) < 2:
        return error
    return click.UsageError(f"Missing {', '.join(missing)}", context)
