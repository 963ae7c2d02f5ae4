"""`contextgraft compare`: two adapters told apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.options import PATH, json_option
from contextgraft.cli.output import print_json

if TYPE_CHECKING:
    from contextgraft.adapter.analysis.compare import AdapterDistance


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--modules", is_flag=True, help="A line for every module, not only the farthest ones.")
@json_option("Print JSON, with every module.")
def command(*, first: Path, second: Path, modules: bool, as_json: bool) -> None:
    """Tell how far two adapters are apart: relative error and principal angles, by module and in all.

    The error is that of FIRST against SECOND; 0 % are the same delta, whatever factors it is written in.
    """
    from contextgraft.adapter.analysis.compare import compare, total
    from contextgraft.adapter.lora.adapter import open_adapter

    adapters = open_adapter(first), open_adapter(second)
    distances = compare(*adapters)
    ropes = [adapter.rope for adapter in adapters]
    whole = total(distances)
    if as_json:
        rows = {"all": _row(whole), "modules": {each.name: _row(each) for each in distances}}
        print_json(rows)
        return
    shown = sorted(distances, key=lambda each: -each.difference)
    click.echo(f"{'tensor':<52}{'ranks':>10}{'error':>10}{'cosine':>9}{'overlap':>9}{'angle':>8}")
    for each in [*(shown if modules else shown[:5]), whole]:
        click.echo(_line(each))
    if len(shown) > 5 and not modules:
        click.echo(f"(the 5 of {len(shown)} that are farthest apart; --modules shows all)")
    if None not in ropes:
        click.echo(f"RoPE: {'the same' if ropes[0] == ropes[1] else 'different'}")


def _row(each: "AdapterDistance") -> dict[str, Any]:
    return {
        "ranks": each.ranks,
        "norms": each.norms,
        "difference": each.difference,
        "relative": each.relative,
        "cosine": each.cosine,
        "overlap": each.overlap,
        "angle": each.angle,
    }


def _line(each: "AdapterDistance") -> str:
    relative = "-" if each.relative is None else f"{each.relative:.3%}"
    cosine = "-" if each.cosine is None else f"{each.cosine:.5f}"
    overlap = "-" if each.overlap is None else f"{each.overlap:.4f}"
    angle = "-" if each.angle is None else f"{each.angle:.1f}°"
    ranks = f"{each.ranks[0]}, {each.ranks[1]}"
    return f"{each.name[-52:]:<52}{ranks:>10}{relative:>10}{cosine:>9}{overlap:>9}{angle:>8}"
