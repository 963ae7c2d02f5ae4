"""What a command that fetches says on stderr: lines, the plan before a transfer, a bar of its bytes."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from contextgraft.sources.hub.client import Watch
    from contextgraft.sources.hub.files import Plan


def watch(command: str) -> "Watch":
    """For the hub's client; every line begins with the command's name."""
    from contextgraft.cli.progress import bytes_bar, size
    from contextgraft.errors import printable
    from contextgraft.sources.hub.client import Watch

    def say(line: str) -> None:
        click.echo(f"{command}: {printable(line)}", err=True)

    def plan(plan: "Plan") -> None:
        there = f", {size(plan.present)} of it here already" if plan.present else ""
        say(
            f"{plan.source} at {plan.commit[:12]}: {len(plan.files)} files, {size(plan.bytes)}{there}; "
            f"{size(plan.free)} free"
        )

    return Watch(say=say, plan=plan, bar=bytes_bar)
