"""`contextgraft extract`: donor minus base as LoRA adapters."""

import os
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--base", type=FOLDER, required=True, help="The model both come from.")
@click.option("--donor", type=FOLDER, required=True, help="The long-context model.")
@click.option("--rank", "ranks", type=click.IntRange(min=1), multiple=True, required=True, help="Repeatable.")
@click.option("--out", type=FOLDER, required=True, help="Folder that gets r<rank> for every rank.")
@click.option("--threads", type=click.IntRange(min=1), help="Matrices at once; default: the cores there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, base: Path, donor: Path, ranks: tuple[int, ...], out: Path, threads: int | None, as_json: bool
) -> None:
    """Factorise donor minus base into LoRA adapters, every rank from one decomposition a matrix.

    An interrupted run is resumed by the same command.
    """
    from contextgraft.adapter.architecture import Kind
    from contextgraft.adapter.extract import extract
    from contextgraft.adapter.pair import pair
    from contextgraft.cli.progress import bytes_bar, size

    threads = threads or os.cpu_count() or 1
    models = pair(base, donor)
    counts = {kind: len(names) for kind, names in models.names.items()}
    click.echo(
        f"extract: {size(models.bytes_to_read)} to read; {counts[Kind.LINEAR]} linear weights to factorise "
        f"at rank {max(ranks)}, {counts[Kind.DENSE]} norms and biases to compare, {counts[Kind.IGNORED]} "
        f"embeddings and others to report; about {size(models.peak_bytes(max(ranks), threads))} of memory "
        f"beyond the program's own, with {threads} thread(s).",
        err=True,
    )
    with bytes_bar("extract", models.bytes_to_read) as advance:
        sidecars = extract(models, ranks, out, threads=threads, advance=advance)
    _show(sidecars, out, as_json)


def _show(sidecars: dict[int, dict[str, Any]], out: Path, as_json: bool) -> None:
    rows = [
        {
            "rank": rank,
            "path": str(out / f"r{rank}"),
            **{key: sidecar[key] for key in ("energy", "error", "delta_norm", "max_length")},
            "modules": len(sidecar["modules"]),
            "dense": len(sidecar["dense"]),
            "ignored": sorted(sidecar["ignored"]),
        }
        for rank, sidecar in sidecars.items()
    ]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2, sort_keys=True))
        return
    click.echo(f"{'rank':>6}  {'energy':>8}  {'error':>8}  folder")
    for row in rows:
        click.echo(f"{row['rank']:>6}  {row['energy']:>8.4f}  {row['error']:>8.4f}  {row['path']}")
    if rows[0]["ignored"]:
        click.echo(f"left out, though they differ: {', '.join(rows[0]['ignored'])}")
