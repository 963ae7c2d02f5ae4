"""Options that take one of a few words."""

import click
from typing_extensions import override

from contextgraft.errors import did_you_mean


class Choice(click.Choice[str]):
    """One of a few words; the error names the word that a misspelt one is similar to."""

    @override
    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        suggestion = did_you_mean(str(value), self.choices)
        return f"{message.removesuffix('.')}; {suggestion}" if suggestion else message
