"""What a command that fetches says on stderr: lines, the plan before a transfer, a bar of its bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from contextgraft.sources.hub.client import Watch
    from contextgraft.sources.hub.files import Plan


def say(command: str) -> Callable[[str], None]:
    """A function that says a line on stderr, the command's name before it."""
    from contextgraft.errors import printable

    return lambda line: click.echo(f"{command}: {printable(line)}", err=True)


def watch(command: str, stop: Callable[[], bool] = lambda: False) -> "Watch":
    """For the hub's client; every line begins with the command's name.

    When `stop` says so, a transfer ends by KeyboardInterrupt, in whatever thread it is.
    """
    from contextgraft.cli.progress import bytes_bar, size
    from contextgraft.sources.hub.client import Watch

    tell = say(command)

    def show(plan: "Plan") -> None:
        there = f", {size(plan.present)} of it here already" if plan.present else ""
        tell(
            f"{plan.source} at {plan.commit[:12]}: {len(plan.files)} files, {size(plan.bytes)}{there}; "
            f"{size(plan.free)} free"
        )

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
        with bytes_bar(what, total) as advance:

            def count(came: int) -> None:
                if stop():
                    raise KeyboardInterrupt
                advance(came)

            yield count

    return Watch(say=tell, plan=show, bar=bar)
