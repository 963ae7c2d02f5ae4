"""`contextgraft merge`: an adapter grafted onto a fine-tune."""

import math
import os
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--adapter", type=FOLDER, required=True, help="A folder that extract wrote.")
@click.option("--target", type=FOLDER, required=True, help="The fine-tune; it is not changed.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the graft.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Factor on the delta; 0 changes RoPE only."
)
@click.option("--threads", type=click.IntRange(min=1), help="Tensors at once; default: the cores there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, adapter: Path, target: Path, out: Path, scale: float, threads: int | None, as_json: bool
) -> None:
    """Graft an adapter onto a fine-tune of the same base, with RoPE and tokenizer length repaired.

    An interrupted run is resumed by the same command.
    """
    from contextgraft.adapter.graft import plan
    from contextgraft.adapter.merge import merge
    from contextgraft.cli.progress import bytes_bar, size

    if not math.isfinite(scale):
        raise click.BadParameter("must be a finite number", param_hint="--scale")
    threads = threads or os.cpu_count() or 1
    graft = plan(adapter, target, scale)
    click.echo(
        f"merge: {size(graft.bytes_to_read)} to read and write in {len(graft.target.shards)} file(s); "
        f"{len(graft.changed)} of {len(graft.target.tensors)} tensors change; about "
        f"{size(graft.peak_bytes(threads))} of memory beyond the program's own, with {threads} thread(s).",
        err=True,
    )
    for warning in graft.warnings:
        click.echo(f"contextgraft: warning: {warning}", err=True)
    with bytes_bar("merge", graft.bytes_to_read) as advance:
        manifest = merge(graft, out, threads=threads, advance=advance)
    _show(manifest, out, as_json)


def _show(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    records = manifest["tensors"].values()
    asked = math.hypot(*(record["delta_norm"] for record in records))
    result = {
        "path": str(out),
        "changed": sum(record["applied"] for record in records),
        "tensors": len(records),
        "delta_norm": asked,
        "survived_norm": math.hypot(*(record["survived_norm"] for record in records)),
        "rope": manifest["rope"],
        "left_out": manifest["left_out"],
    }
    if as_json:
        import json

        click.echo(json.dumps(result, indent=2, sort_keys=True))
        return
    before, after = manifest["rope"]["before"], manifest["rope"]["after"]
    click.echo(f"graft        {out}")
    click.echo(f"tensors      {result['changed']} of {result['tensors']} changed")
    click.echo(f"delta        norm {asked:.6g} asked for, {result['survived_norm']:.6g} survived rounding")
    click.echo(f"rope theta   {before['theta']:g} -> {after['theta']:g}")
    click.echo(f"positions    {before['max_positions']} -> {after['max_positions']}")
    if manifest["left_out"]:
        click.echo(f"left out     {', '.join(manifest['left_out'])}")
