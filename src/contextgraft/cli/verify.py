"""`contextgraft verify`: the proof that a graft is what it says."""

import os
import sys
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("graft", type=FOLDER)
@click.option("--target", type=FOLDER, help="The fine-tune: also prove that it is the one merged into.")
@click.option(
    "--adapter", "adapters", type=FOLDER, multiple=True,
    help="The adapter: also prove that it is the one merged. Repeatable, in the order of the merge.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="Tensors at once; default: the cores there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, graft: Path, target: Path | None, adapters: tuple[Path, ...], threads: int | None, as_json: bool
) -> None:
    """Prove from the folders alone that a graft is what it says.

    With both --target and --adapter every changed tensor is computed again. Exit code 1 if anything differs.
    """
    from dataclasses import asdict

    from contextgraft.adapter.verify import verify
    from contextgraft.cli.progress import bytes_bar

    total = sum(file.stat().st_size for file in graft.glob("*.safetensors"))
    with bytes_bar("verify", total * (2 if target and adapters else 1)) as advance:
        count = threads or os.cpu_count() or 1
        checks = verify(graft, target=target, adapters=adapters, threads=count, advance=advance)
    holds = all(check.holds for check in checks)
    if as_json:
        import json

        click.echo(
            json.dumps(
                {"holds": holds, "checks": [asdict(check) for check in checks]}, indent=2, sort_keys=True
            )
        )
    else:
        for check in checks:
            click.echo(f"{'ok' if check.holds else 'DIFFERS':<8} {check.name:<11} {check.detail}")
        click.echo(f"{graft}: {'verified' if holds else 'does not verify'}")
    if not holds:
        sys.exit(1)
