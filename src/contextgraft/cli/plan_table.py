"""The plan of an evaluation for people."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from contextgraft.cli.output import stdout_console
from contextgraft.planning import inference
from contextgraft.planning.evaluation import Grid, Line
from contextgraft.planning.inference import Device, Shape

GIB = 2**30
GB = 1e9


def show(shape: Shape, device: Device, grid: Grid, count: int, lines: Sequence[Line]) -> None:
    """Print what the model is, what each length needs, what each suite costs, and how that is meant."""
    console = stdout_console()
    for line in head(shape, device, count):
        console.print(Text(line))
    console.print()
    console.print(memory_table(shape, device, grid))
    console.print()
    console.print(cost_table(lines))
    console.print()
    for line in notes(grid, lines):
        console.print(Text(line))


def head(shape: Shape, device: Device, count: int) -> list[str]:
    """The model and the device in four lines."""
    active = "" if shape.active == shape.parameters else f" ({shape.active:,} of them for each token)"
    return [
        f"model    {shape.name}: {shape.parameters:,} parameters{active}, {len(shape.windows)} layers",
        f"weights  {amount(inference.weight_bytes(shape))} in {shape.dtype};"
        f" keys and values {inference.kv_bytes_per_token(shape):,} bytes a token",
        f"device   {device.flops:.3g} FLOP/s of which {device.utilisation:.0%} are reached,"
        f" {device.bandwidth:.3g} bytes a second, {device.memory / GB:g} GB",
        f"models   {count}",
    ]


def memory_table(shape: Shape, device: Device, grid: Grid) -> Table:
    """What one prompt of each length needs."""
    table = Table(box=None)
    for name in ("length", "keys and values", "with weights", "least devices"):
        table.add_column(name, justify="right")
    for length in grid.lengths:
        held = inference.kv_bytes(shape, length)
        devices = str(inference.gpus(shape, length, device))
        table.add_row(f"{length:,}", amount(held), amount(held + inference.weight_bytes(shape)), devices)
    return table


def cost_table(lines: Sequence[Line]) -> Table:
    """What each suite costs at each length, and all of it."""
    table = Table("suite", box=None)
    for name in ("length", "prompts", "tokens read", "shared", "reading h", "shared h", "writing h"):
        table.add_column(name, justify="right")
    table.add_column("wall h", justify="right")
    for line in lines:
        table.add_row(line.suite, f"{line.length:,}", *cells([line]))
    table.add_row("all", "", *cells(lines))
    return table


def cells(lines: Sequence[Line]) -> list[str]:
    """Sums of some lines; wall hours are those of the fewest devices that hold each."""
    wall = sum((line.hours_shared + line.hours_writing) / line.gpus for line in lines)
    return [
        f"{sum(line.prompts for line in lines):,}",
        f"{sum(line.tokens_alone for line in lines):,}",
        f"{sum(line.tokens_shared for line in lines):,}",
        hours(sum(line.hours_alone for line in lines)),
        hours(sum(line.hours_shared for line in lines)),
        hours(sum(line.hours_writing for line in lines)),
        hours(wall),
    ]


def notes(grid: Grid, lines: Sequence[Line]) -> list[str]:
    """How the figures are meant."""
    said = [
        "Hours are device hours of all models; wall hours are those of the least devices, all of them busy.",
        "Shared: a prompt keeps what it has in common with the one before. Writing: one prompt at a time.",
    ]
    if any(line.suite == "needle" for line in lines) and not grid.one_text:
        most = len(grid.depths) - 1
        said.append(f"With --distractors {most} or more one text serves all {most + 1} depths.")
    return said


def amount(count: int) -> str:
    """Bytes in GiB, or in MiB where they are few."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def hours(count: float) -> str:
    """Hours to three places that matter."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"
