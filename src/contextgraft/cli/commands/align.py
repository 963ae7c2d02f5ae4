"""`contextgraft align`: whether donor and fine-tune changed the base in the same direction."""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.options import (
    PARQUET_PATH,
    PATH,
    check_device,
    device_option,
    example,
    json_option,
    pair_options,
    tensor_options,
    tensor_selection,
    threads_option,
    threads_or_cores,
)
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import local_folders
from contextgraft.errors import ContextgraftError, InputError

if TYPE_CHECKING:
    from contextgraft.adapter.extract.rank_spec import TensorSelection
    from contextgraft.formats.alignment import AlignmentResult, Direction


ROLES = ("base", "donor", "target")


@click.command(epilog=example("contextgraft align --base base --donor donor --target my-fine-tune"))
@pair_options
@click.option("--target", type=PATH, required=True, help="The fine-tune: any source of fetch.")
@tensor_options("Compare")
@click.option("--out", type=PARQUET_PATH, help="Parquet file to write, with a row for each tensor.")
@click.option(
    "--allow-refused",
    is_flag=True,
    help="Write a table without rows if a model cannot be used, does not fit or only records a refusal.",
)
@device_option
@threads_option("Tensors")
@json_option("Print JSON, with every tensor.")
def command(
    *,
    base: Path,
    donor: Path,
    target: Path,
    embeddings: str | None,
    include: str,
    exclude: str | None,
    out: Path | None,
    allow_refused: bool,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare donor minus base with target minus base: norms and the cosine between them.

    Cosine near 0: the two trainings changed the weights independently. Positive: the fine-tune changed them
    in the donor's direction. Negative: the graft reverses a part of the fine-tuning. Each cosine is printed
    with the range of random directions.
    """
    from contextgraft.formats.refusal import is_final

    if out is not None:
        from contextgraft.checkpoint.replaceable import check_apart
        from contextgraft.formats.read_alignment import check_replaceable

        check_apart(out, [base, donor, target])
        check_replaceable(out)
    selection = tensor_selection(embeddings, include, exclude)
    try:
        base, donor, target = local_folders("align", base, donor, target)
        result = _align((base, donor, target), selection, threads_or_cores(threads), device)
    except ContextgraftError as error:
        if not allow_refused or out is None or not is_final(error):
            raise
        from contextgraft.formats.alignment import write_nothing

        write_nothing(out)
        echo(error)
        return
    from contextgraft.formats.alignment import summary, write

    if out is not None:
        write(result, out)
    if as_json:
        print_json(summary(result))
    else:
        _show(result)


def _align(
    folders: tuple[Path, Path, Path], selection: "TensorSelection", threads: int, device: str
) -> "AlignmentResult":
    from contextgraft.adapter.analysis.model_triple import open_triple

    models = open_triple(*folders, selection)
    for first, second in combinations(range(len(ROLES)), 2):
        if folders[first].resolve() == folders[second].resolve():
            raise InputError(
                f"is given as {ROLES[first]} and as {ROLES[second]}: there is nothing to compare",
                path=folders[second], expected="three different models",
                remedy=f"name another folder with --{ROLES[second]}",
            )  # fmt: skip
    from contextgraft.adapter.analysis.alignment import align
    from contextgraft.cli.progress import bytes_bar

    check_device(device)
    echo(f"align: {format_bytes(models.bytes_to_read)} to read, with {threads} thread(s).", err=True)
    with bytes_bar("align", models.bytes_to_read) as advance:
        result = align(models, threads=threads, device=device, advance=advance)
    for one, other in combinations(ROLES, 2):
        if result.models[one]["digest"] == result.models[other]["digest"]:
            echo(f"contextgraft: warning: {one} and {other} have the same weights", err=True)
    return result


def _show(result: "AlignmentResult") -> None:
    from contextgraft.adapter.analysis.model_summary import shortened
    from contextgraft.formats.alignment import CHANCE_LIMIT, by_kind, by_layer, direction

    head = f"{'':<24}{'tensors':>8}{'donor':>11}{'target':>11}{'cosine':>10}{'chance':>11}"
    for title, lines in (("layer", by_layer(result)), ("kind", by_kind(result))):
        echo(f"{title:<24}{head[24:]}")
        for line in lines:
            echo(_line(line))
        echo()
    echo(_line(direction("all", result.tensors)))
    echo(
        f"donor, target: norms of the deltas; chance: {CHANCE_LIMIT:.2f} standard deviations of the cosine "
        "between random directions; *: outside of that"
    )
    if result.left_out:
        echo(f"not compared: {len(result.left_out)}: {shortened(list(result.left_out))}")


def _line(direction: "Direction") -> str:
    from contextgraft.formats.alignment import CHANCE_LIMIT

    cosine = "-" if direction.cosine is None else f"{direction.cosine:+.4f}"
    chance = "-" if direction.chance is None else f"±{CHANCE_LIMIT * direction.chance:.4f}"
    mark = " *" if direction.beyond_chance else ""
    norms = f"{direction.donor_norm:>11.4g}{direction.target_norm:>11.4g}"
    return f"{direction.name:<24}{direction.tensors:>8}{norms}{cosine:>10}{chance:>11}{mark}"
