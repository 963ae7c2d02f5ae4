"""Groups of commands whose modules are imported only when a command runs, so that --help needs none."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from typing_extensions import override


class LazyGroup(click.Group):
    """`verbs` maps names to one line of help; verb `a-b` is the `command` of module `<package>.a_b`.

    `hidden` verbs work and are not listed. `default_verb` keeps command lines working that were written
    before the group had verbs: it names the verb that gets arguments which start with none.
    """

    def __init__(
        self,
        *arguments: Any,
        verbs: Mapping[str, str],
        package: str,
        hidden: Sequence[str] = (),
        default_verb: Callable[[Sequence[str]], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.verbs = verbs
        self.package = package
        self.hidden_verbs = hidden
        self.default_verb = default_verb

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs and cmd_name not in self.hidden_verbs:
            return None
        module = importlib.import_module(f"{self.package}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.default_verb is not None and args and not self._starts_with_verb(ctx, args[0]):
            args = [self.default_verb(args), *args]
        return super().parse_args(ctx, args)

    def _starts_with_verb(self, ctx: click.Context, word: str) -> bool:
        """Whether a word is a verb, a request for help, or a misspelt verb, which is an error."""
        known = {*self.verbs, *self.hidden_verbs, *ctx.help_option_names}
        return word in known or (bool(get_close_matches(word, self.verbs)) and not Path(word).exists())

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
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
