"""`contextgraft fetch`: copy a model, an adapter or a data set from its source into a folder."""

from pathlib import Path

import click

from contextgraft.cli.option_types import COUNT, Choice
from contextgraft.cli.options import PATH, example, json_option, replace_option, skip_existing_option, skipped
from contextgraft.cli.output import echo, print_json
from contextgraft.cli.progress import hub_progress


@click.command(epilog=example("contextgraft fetch hf:OWNER/NAME --out models/name"))
@click.argument("source")
@click.option("--out", type=PATH, required=True, help="Folder to create.")
@click.option(
    "--dtype",
    type=Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Dtype of tensors from GGUF files; folders and repositories keep their dtype.",
)
@click.option(
    "--headers",
    is_flag=True,
    help="From the hub: only config, tokenizer, tensor names and shapes, no weights.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Of a data set: only files that match (* matches / too); repeatable.",
)
@click.option(
    "--convert-pickles",
    is_flag=True,
    help="Convert weights that are pickles (.bin) to safetensors; none of their code runs.",
)
@click.option(
    "--dequantize",
    "dequantise",
    is_flag=True,
    help="Convert FP8 weights with scales by block to bfloat16.",
)
@click.option(
    "--threads",
    type=COUNT,
    default=4,
    show_default=True,
    help="Number of files downloaded from the hub at once.",
)
@replace_option
@skip_existing_option
@json_option()
def command(
    *,
    source: str,
    out: Path,
    dtype: str,
    headers: bool,
    include: tuple[str, ...],
    convert_pickles: bool,
    dequantise: bool,
    threads: int,
    replace: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Copy a model, an adapter or a data set into a folder.

    SOURCE is a folder, a .gguf file, package:NAME (the GGUF file inside an installed Python package),
    demo:NAME, or hf:OWNER/NAME[@REVISION]: a model, a graft or an adapter on the hub. Only the needed files
    of a repository are downloaded, each is verified, and an interrupted download continues where it stopped.
    hf:datasets/OWNER/NAME[@REVISION] is a data set to train on. The token is that of `hf auth login` or
    HF_TOKEN.
    """
    if skipped(out, skip_existing=skip_existing):
        return
    from contextgraft.sources.conversion import Conversion
    from contextgraft.sources.fetch import fetch
    from contextgraft.sources.fetched import fetched_already
    from contextgraft.sources.hub.client import Hub

    hub = Hub(progress=hub_progress("fetch"), threads=threads)
    conversion = Conversion(convert_pickles, dequantise)
    known = None if replace else fetched_already(source, out, hub, headers=headers, conversion=conversion)
    if known:
        echo(f"fetch: {out} exists already, from the same source", err=True)
    record = known or fetch(
        source, out, dtype, hub=hub, headers=headers, include=include, conversion=conversion, replace=replace
    )
    if as_json:
        print_json(record)
        return
    commit = f"  commit {record['revision'][:12]}" if record["revision"] else ""
    digest = f"  digest {record['digest'][:16]}" if record.get("digest") else ""
    echo(f"{out}  {record['name']}{commit}{digest}")
