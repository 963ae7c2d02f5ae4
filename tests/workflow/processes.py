"""The processes of a study that runs in forked processes."""

from contextlib import suppress
from pathlib import Path

from ..command_server import command_server


def heads() -> list[int]:
    """The process that runs Snakemake."""
    return grandchildren(command_server("snakemake").process.pid)


def jobs() -> list[int]:
    """The processes that run `contextgraft`."""
    return grandchildren(command_server("contextgraft").process.pid)


def grandchildren(process: int) -> list[int]:
    """Those of a server are the programs that it runs; a child of it waits for each."""
    return [second for first in children(process) for second in children(first)]


def children(process: int) -> list[int]:
    with suppress(OSError):
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    return []
