"""-v and -q of every command: how much is printed on stderr, besides results and errors."""

import sys
from dataclasses import dataclass
from typing import Any, TextIO, cast

import click


@dataclass
class Verbosity:
    """The object of the command line's context: `quiet` leaves warnings and errors, `verbose` adds more."""

    quiet: bool = False
    verbose: bool = False


class _Discarded:
    """A stream that takes text and shows nothing."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Forget the text."""
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        """Whether it is a terminal: never."""
        return False


def is_quiet() -> bool:
    """Whether -q was given; false outside of a command, and in threads."""
    context = click.get_current_context(silent=True)
    settings = context.find_object(Verbosity) if context is not None else None
    return settings is not None and settings.quiet


def progress_stream() -> TextIO:
    """Where progress is shown: stderr, or nowhere with -q."""
    return cast("TextIO", _Discarded()) if is_quiet() else sys.stderr


def _set(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    settings = context.find_object(Verbosity)
    if not value or settings is None:
        return
    setattr(settings, str(parameter.name), True)
    if settings.quiet and settings.verbose:
        raise click.UsageError("-v and -q exclude each other", context)
    if settings.verbose:
        import logging

        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")


def verbosity_options() -> list[click.Parameter]:
    """The two options, for any command."""
    shared: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set}
    return [
        click.Option(
            ["-v", "--verbose"], help="Show messages of libraries, and where an error was raised.", **shared
        ),
        click.Option(
            ["-q", "--quiet"], help="Show no progress and no messages but warnings and errors.", **shared
        ),
    ]
