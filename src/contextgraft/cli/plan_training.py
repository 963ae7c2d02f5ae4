"""`contextgraft train --plan`: what a recipe costs on a cluster, before anything runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from contextgraft.cli.commands.plan import MOST, POSITIVE, SHARE
from contextgraft.cli.output import print_json, stdout_console

if TYPE_CHECKING:
    from rich.table import Table

    from contextgraft.planning.training import Cluster, Cost, Division, Memory

F = TypeVar("F", bound=Callable[..., Any])
NODE = 8  # ranks of a node, where nothing is said
GIB = 2**30
OPTIONS = (
    click.option("--plan", is_flag=True, help="only say what the run costs; --base may be a config.json"),
    click.option(
        "--ranks",
        type=click.IntRange(1, MOST),
        default=1,
        help="processes, a device each [--plan; default: 1]",
    ),
    click.option(
        "--device-flops",
        type=POSITIVE,
        default=989e12,
        help="operations a second of a device at best [--plan; default: an H100's in bfloat16]",
    ),
    click.option(
        "--utilisation", type=SHARE, default=0.4, help="share of that which is reached [--plan; default: 0.4]"
    ),
    click.option(
        "--device-memory", type=POSITIVE, default=80e9, help="bytes of a device [--plan; default: 80e9]"
    ),
    click.option(
        "--link",
        type=POSITIVE,
        default=50e9,
        help="bytes a second of one link between nodes [--plan; default: 50e9, which is 400 Gbit]",
    ),
    click.option(
        "--links", type=click.IntRange(1, MOST), default=1, help="such links of a node [--plan; default: 1]"
    ),
)
NAMES = ("ranks", "device_flops", "utilisation", "device_memory", "link", "links")


def options(command: F) -> F:
    """Add the options of the plan to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def show(config: Path, base: Path, *, as_json: bool, **asked: Any) -> None:
    """Print the costs of a recipe for a base's folder or config.json; `asked` are the command's options."""
    from contextgraft.config.training import load_recipe
    from contextgraft.planning.model_shape import read_shape
    from contextgraft.planning.training import Cluster, Division, costs

    recipe, shape = load_recipe(config), read_shape(base)
    ranks = asked["ranks"]
    cluster = Cluster(
        ranks=ranks,
        ranks_per_node=asked["ranks_per_node"] or min(ranks, NODE),
        flops=asked["device_flops"],
        utilisation=asked["utilisation"],
        memory=asked["device_memory"],
        link=asked["link"],
        links=asked["links"],
    )
    dtype = asked["dtype"] or "float32"
    size = {"float32": 4, "bfloat16": 2}[dtype]
    division = Division(asked["context_parallel"] or ranks, asked["layout"], asked["rows_at_once"], size)
    found = costs(recipe, shape, cluster, division)
    if as_json:
        facts = describe(cluster, division, found) | {"recipe": recipe.name, "parameters": shape.parameters}
        print_json(facts)
        return
    click.echo(f"{recipe.name}: {shape.parameters:,} parameters, {' and '.join(recipe.trainable)} move")
    click.echo(
        f"{ranks} ranks, {cluster.ranks_per_node} a node, {division.context} on a sequence, {dtype};"
        f" {cluster.flops:.3g} FLOP/s of which {cluster.utilisation:.0%} are reached,"
        f" {cluster.links} x {cluster.link:.3g} bytes/s between nodes"
    )
    _print(recipe.stages, cluster, found)


def describe(cluster: "Cluster", division: "Division", found: Sequence["Cost"]) -> dict[str, Any]:
    """Cluster, stages and their sum as plain JSON values."""
    stages = [
        asdict(cost)
        | {"device_hours": cost.hours(cluster), "memory_bytes": cost.memory.all}
        | {"link_hours": {name: cost.link_hours(cluster, name) for name in cost.between}}
        for cost in found
    ]
    summed = ("steps", "tokens", "flops", "computed", "device_hours", "weights")
    whole: dict[str, Any] = {name: sum(stage[name] for stage in stages) for name in summed}
    whole["memory_bytes"] = max(stage["memory_bytes"] for stage in stages)
    return {"cluster": asdict(cluster), "division": asdict(division), "stages": stages, "all": whole}


def _print(stages: Sequence[Any], cluster: "Cluster", found: Sequence["Cost"]) -> None:
    console = stdout_console()
    for table in (_works(stages, cluster, found), _memories(found), _betweens(cluster, found)):
        console.print()
        console.print(table)
    click.echo()
    for line in _notes(cluster, found):
        click.echo(line)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(columns[0], box=None)
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _works(stages: Sequence[Any], cluster: "Cluster", found: Sequence["Cost"]) -> "Table":
    table = _table(
        "stage", "length", "steps", "tokens", "FLOPs", "device h", "ranks busy", "published h", "that reached"
    )
    for number, (stage, cost) in enumerate(zip(stages, found, strict=True), 1):
        table.add_row(str(number), f"{stage.length:,}", *_work(cluster, cost))
    steps, tokens = sum(cost.steps for cost in found), sum(cost.tokens for cost in found)
    flops, hours = sum(cost.flops for cost in found), sum(cost.hours(cluster) for cost in found)
    table.add_row("all", "", f"{steps:,}", f"{tokens:,}", f"{flops:.3g}", f"{hours:,.4g}")
    return table


def _memories(found: Sequence["Cost"]) -> "Table":
    table = _table("GiB a rank", *vars(found[0].memory), "all")
    for number, cost in enumerate(found, 1):
        table.add_row(str(number), *_memory(cost.memory))
    return table


def _betweens(cluster: "Cluster", found: Sequence["Cost"]) -> "Table":
    table = _table(
        "between nodes", "layout", "keys, values: GB out of a node", "on its busiest link", "weights GB",
        "link busy h",
    )  # fmt: skip
    for number, cost in enumerate(found, 1):
        for layout, crossing in cost.between.items():
            chosen = layout + (" (chosen)" if layout == cost.layout else "")
            figures = (crossing.node / 1e9, crossing.link / 1e9, cost.weights / 1e9)
            hours = cost.link_hours(cluster, layout)
            table.add_row(str(number), chosen, *(f"{x:,.4g}" for x in figures), f"{hours:,.3g}")
    return table


def _work(cluster: "Cluster", cost: "Cost") -> list[str]:
    published, reached = "", ""
    if cost.published is not None:
        published = f"{cost.published:,.4g}"
        reached = f"{cost.flops / cost.published / 3600 / cluster.flops:.1%}"
    return [
        f"{cost.steps:,}", f"{cost.tokens:,}", f"{cost.flops:.3g}", f"{cost.hours(cluster):,.4g}",
        f"{cost.busy:.0%}", published, reached,
    ]  # fmt: skip


def _memory(memory: "Memory") -> list[str]:
    return [f"{value / GIB:,.2f}" for value in (*vars(memory).values(), memory.all)]


def _notes(cluster: "Cluster", found: Sequence["Cost"]) -> list[str]:
    """How the figures are meant."""
    said = [
        "FLOPs are the model's; device h counts what is recomputed and idle ranks too, and computing alone:"
        " wall hours lie between the longer of computing and link, and their sum."
    ]
    if any(cost.published for cost in found):
        said.append(
            "that reached: the model's FLOPs in the published device hours, as a share of this device's best."
        )
    most = max(cost.memory.all for cost in found)
    if most > cluster.memory:
        said.append(
            f"A rank needs {most / 1e9:,.0f} GB and has {cluster.memory / 1e9:,.0f}: more ranks on a"
            " sequence, --rows-at-once 1, or activation_checkpointing."
        )
    return said
