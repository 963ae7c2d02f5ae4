"""`contextgraft compare`: the distance between two adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import echo, print_json
from contextgraft.cli.progress import count_bar, local_folders

if TYPE_CHECKING:
    from contextgraft.adapter.analysis.compare import AdapterDistance


@click.command(epilog=example("contextgraft compare adapters/r8 adapters/r32"))
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--modules", is_flag=True, help="Print every module, not only the five most different.")
@json_option("Print JSON, with every module.")
def command(*, first: Path, second: Path, modules: bool, as_json: bool) -> None:
    """Compare two adapters: relative error and principal angles, by module and over all modules.

    The error is the norm of the difference of the deltas, relative to that of SECOND; 0 % means equal deltas,
    even with different factors. Overlap is the mean squared cosine of the principal angles between the spaces
    of the factors, 1 if one space contains the other; angle is the largest of these angles.
    """
    from contextgraft.adapter.lora.adapter import open_adapter

    first, second = local_folders("compare", first, second)
    adapters = open_adapter(first), open_adapter(second)
    from contextgraft.adapter.analysis.compare import compare, count_tensors, total

    if first.resolve() == second.resolve():
        echo(f"contextgraft: warning: {first}: compared with itself, so that nothing differs", err=True)
    count = count_tensors(*adapters)
    echo(f"compare: {count} tensors of two adapters.", err=True)
    with count_bar("compare", count, "tensors") as advance:
        distances = compare(*adapters, advance)
    ropes = [adapter.rope for adapter in adapters]
    overall = total(distances)
    if as_json:
        rows = {"all": _row(overall), "modules": {distance.name: _row(distance) for distance in distances}}
        print_json(rows)
        return
    shown = sorted(distances, key=lambda distance: -distance.difference)
    echo(f"{'tensor':<52}{'ranks':>10}{'error':>10}{'cosine':>9}{'overlap':>9}{'angle':>8}")
    for distance in [*(shown if modules else shown[:5]), overall]:
        echo(_line(distance))
    if len(shown) > 5 and not modules:
        echo(f"(the 5 most different of {len(shown)}; --modules shows all)")
    if None not in ropes:
        echo(f"RoPE: {'the same' if ropes[0] == ropes[1] else 'different'}")


def _row(distance: "AdapterDistance") -> dict[str, Any]:
    return {
        "ranks": distance.ranks,
        "norms": distance.norms,
        "difference": distance.difference,
        "relative": distance.relative,
        "cosine": distance.cosine,
        "overlap": distance.overlap,
        "angle": distance.angle,
    }


def _line(distance: "AdapterDistance") -> str:
    relative = "-" if distance.relative is None else f"{distance.relative:.3%}"
    cosine = "-" if distance.cosine is None else f"{distance.cosine:.5f}"
    overlap = "-" if distance.overlap is None else f"{distance.overlap:.4f}"
    angle = "-" if distance.angle is None else f"{distance.angle:.1f}°"
    ranks = f"{distance.ranks[0]}, {distance.ranks[1]}"
    return f"{distance.name[-52:]:<52}{ranks:>10}{relative:>10}{cosine:>9}{overlap:>9}{angle:>8}"
