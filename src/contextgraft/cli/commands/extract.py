"""`contextgraft extract`: donor minus base as LoRA adapters."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.option_types import COUNT, Choice, RealNumber
from contextgraft.cli.options import (
    PATH,
    check_device,
    device_option,
    example,
    json_option,
    pair_options,
    replace_option,
    skip_existing_option,
    skipped,
    tensor_options,
    tensor_selection,
    threads_option,
    threads_or_cores,
)
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import local_folders
from contextgraft.errors import InputError, MismatchError

if TYPE_CHECKING:
    from contextgraft.adapter.extract.model_pair import ModelPair
    from contextgraft.adapter.extract.rank_spec import RankSpec


@click.command(
    epilog=example("contextgraft extract --base base --donor donor --rank 8 --rank 32 --out adapters")
)
@pair_options
@click.option(
    "--rank",
    "ranks",
    type=COUNT,
    multiple=True,
    help="Rank of an adapter, written to r<rank>; repeatable. --rank or --energy is required.",
)
@click.option(
    "--energy", "energies", type=RealNumber(0, 1, min_open=True), multiple=True,
    help="Smallest rank by module that captures this share of its delta; written to e<share>; repeatable.",
)  # fmt: skip
@click.option(
    "--max-rank",
    type=COUNT,
    default=128,
    show_default=True,
    help="Largest rank for --energy.",
)
@click.option("--serve-ranks", is_flag=True, help="Round every rank up to one that vLLM accepts.")
@tensor_options("Extract")
@click.option("--gguf", is_flag=True, help="Also write adapter.gguf for llama.cpp into each folder.")
@click.option(
    "--backend", type=Choice(["contextgraft", "mergekit"]), default="contextgraft", show_default=True,
    help="Program that factorises. mergekit: run mergekit-extract-lora, with --rank only.",
)  # fmt: skip
@click.option(
    "--mergekit", type=PATH, help="Path of mergekit-extract-lora; default: next to this Python, or from PATH."
)
@click.option(
    "--expect-theta", type=RealNumber(0, min_open=True), help="Reject a donor with another RoPE theta."
)
@click.option("--expect-positions", type=COUNT, help="Reject a donor with another maximum position.")
@click.option("--out", type=PATH, required=True, help="Output folder, with one adapter folder for each rank.")
@device_option
@threads_option("Matrices")
@replace_option
@skip_existing_option
@click.option("--prune", is_flag=True, help="Remove adapters of other ranks from the output folder.")
@json_option()
def command(
    *,
    base: Path,
    donor: Path,
    ranks: tuple[int, ...],
    energies: tuple[float, ...],
    max_rank: int,
    serve_ranks: bool,
    embeddings: str | None,
    include: str,
    exclude: str | None,
    gguf: bool,
    backend: str,
    mergekit: Path | None,
    expect_theta: float | None,
    expect_positions: int | None,
    out: Path,
    device: str,
    threads: int | None,
    replace: bool,
    skip_existing: bool,
    prune: bool,
    as_json: bool,
) -> None:
    """Factorise donor minus base into LoRA adapters, all ranks from one decomposition per matrix.

    The same command resumes an interrupted run. If all adapters exist already, of the same models and
    options, the command says so and exits with 0.
    """
    from contextgraft.adapter.extract.finished import finished_adapters
    from contextgraft.adapter.extract.model_pair import open_pair
    from contextgraft.adapter.extract.rank_spec import SERVED_RANKS, RankSpec
    from contextgraft.checkpoint.file_io import read_ahead
    from contextgraft.checkpoint.replaceable import check_apart

    if not ranks and not energies:
        raise click.UsageError("no rank given: pass --rank or --energy")
    other = backend == "mergekit"
    if other and (energies or serve_ranks or gguf):
        raise click.UsageError(
            "--backend mergekit cannot be combined with --energy, --serve-ranks or --gguf; use --rank"
        )
    if mergekit is not None and not other:
        raise click.UsageError("--mergekit needs --backend mergekit")
    steps = SERVED_RANKS if serve_ranks else ()
    highest = max([*ranks, *([max_rank] if energies else [])])
    if serve_ranks and highest > SERVED_RANKS[-1]:
        raise click.UsageError(
            f"--serve-ranks: vLLM accepts ranks up to {SERVED_RANKS[-1]}; received {highest}"
        )
    specs = [RankSpec(rank, steps=steps) for rank in ranks] + [
        RankSpec(max_rank, energy, steps) for energy in energies
    ]
    folders = [out / spec.name for spec in specs]
    if all(folder.exists() for folder in folders) and skipped(out, skip_existing=skip_existing):
        return
    for folder in folders:
        check_apart(folder, [base, donor])
    selection = tensor_selection(embeddings, include, exclude)
    threads = threads_or_cores(threads)
    base, donor = local_folders("extract", base, donor)
    if base.resolve() == donor.resolve():
        raise InputError(
            "is the base itself: there is nothing to extract", path=donor,
            expected="a donor that was trained on from the base", remedy="name another folder with --donor",
        )  # fmt: skip
    read_ahead(base, donor)
    models = open_pair(base, donor, selection)
    _check_expected(models, expect_theta, expect_positions)
    check_device(device)
    for warning in (*models.warnings, *_beyond_full_rank(models, ranks)):
        echo(f"contextgraft: warning: {warning}", err=True)
    known = None if other or replace else finished_adapters(models, specs, out, gguf=gguf)
    if known:
        from contextgraft.checkpoint.atomic import remove_leftovers

        remove_leftovers(out)
        echo(f"extract: {out} has these adapters already, of the same models", err=True)
        sidecars = known
    elif other:
        sidecars = _by_mergekit(models, ranks, out, mergekit, replace=replace, threads=threads, device=device)
    else:
        sidecars = _ours(models, specs, out, gguf=gguf, replace=replace, threads=threads, device=device)
    if prune:
        from contextgraft.adapter.extract.extract import remove_other_adapters

        remove_other_adapters(out, sidecars)
    _show(sidecars, out, as_json)


def _beyond_full_rank(models: "ModelPair", ranks: tuple[int, ...]) -> Iterator[str]:
    """A warning about ranks that no module can have; PEFT takes such an adapter."""
    from contextgraft.adapter.extract.rank_spec import largest_rank

    full = largest_rank(models.base[name] for name in models.factorised)
    for rank in (rank for rank in ranks if rank > full):
        beyond = f"--rank {rank} is above the smaller side of every module, at most {full}"
        yield f"{beyond}: every module gets its full rank, as with --rank {full}"


def _check_expected(models: "ModelPair", theta: float | None, positions: int | None) -> None:
    from contextgraft.rope import settings

    rope = settings.read_any_length(models.donor.config, models.donor.path)
    for name, expected, received in (
        ("RoPE theta", theta, rope.theta),
        ("maximum position", positions, rope.max_positions),
    ):
        if expected is not None and expected != received:
            raise MismatchError(
                f"has another {name} than expected",
                path=models.donor.path, expected=f"{expected:.17g}", received=f"{received:.17g}",
                remedy="fetch the right donor, or correct --expect-theta and --expect-positions",
            )  # fmt: skip


def _ours(
    models: "ModelPair",
    specs: "list[RankSpec]",
    out: Path,
    *,
    gguf: bool,
    replace: bool,
    threads: int,
    device: str,
) -> dict[str, dict[str, Any]]:
    from contextgraft.adapter.extract.extract import extract
    from contextgraft.cli.progress import bytes_bar
    from contextgraft.formats.tensor_names import TensorRole

    most = max(spec.max_rank for spec in specs)
    written = sum(models.factor_bytes(spec.max_rank) for spec in specs)
    dense, ignored = (len(models.names_by_role[kind]) for kind in (TensorRole.DENSE, TensorRole.IGNORED))
    echo(
        f"extract: {format_bytes(models.bytes_to_read)} to read; {len(models.factorised)} weights to "
        f"factorise at up to rank {most}, at most {format_bytes(written)} to write; "
        f"{dense} norms and biases to compare, {ignored} others to report; about "
        f"{format_bytes(models.peak_bytes(most, threads))} of memory in addition to the program's own, "
        f"with {threads} thread(s).",
        err=True,
    )
    with bytes_bar("extract", models.bytes_to_read) as advance:
        return extract(
            models, specs, out, gguf=gguf, replace=replace, threads=threads, device=device, advance=advance
        )


def _by_mergekit(
    models: "ModelPair",
    ranks: tuple[int, ...],
    out: Path,
    command: Path | None,
    *,
    replace: bool,
    threads: int,
    device: str,
) -> dict[str, dict[str, Any]]:
    from contextgraft.adapter.extract import mergekit as mergekit_backend
    from contextgraft.cli.progress import bytes_bar

    path = mergekit_backend.find_command(command)
    ranks = tuple(sorted(set(ranks)))
    echo(
        f"extract: {path.name} runs once for each of {len(ranks)} rank(s): a full decomposition of "
        f"{len(models.factorised)} weights, the complete adapter in memory "
        f"({format_bytes(models.factor_bytes(ranks[-1]))} at rank {ranks[-1]}); then "
        f"{format_bytes(models.bytes_to_read)} are read to measure it.",
        err=True,
    )
    with bytes_bar("measure", models.bytes_to_read * len(ranks)) as advance:
        return mergekit_backend.extract(
            models, ranks, out, path, replace=replace, threads=threads, device=device, advance=advance
        )


def _show(sidecars: dict[str, dict[str, Any]], out: Path, as_json: bool) -> None:
    rows = [
        {
            "path": str(out / name),
            **{key: sidecar[key] for key in ("rank", "energy", "error", "delta_norm", "max_length")},
            "modules": len(sidecar["modules"]),
            "excess": _excess(sidecar),
            "short": _short_of_energy(sidecar),
            "dense": len(sidecar["dense"]),
            "ignored": sorted(sidecar["ignored"]),
        }
        for name, sidecar in sidecars.items()
    ]
    if as_json:
        print_json(rows)
        return
    echo(f"{'rank':>6}  {'energy':>8}  {'error':>8}  folder")
    for row in rows:
        echo(f"{row['rank']:>6}  {row['energy']:>8.4f}  {row['error']:>8.4f}  {row['path']}")
        if row["short"]:
            echo(f"        {row['short']} module(s) need more than --max-rank to capture that energy")
    from contextgraft.adapter.analysis.model_summary import shortened

    known = [row["excess"] for row in rows if row["excess"] is not None]
    if known:
        echo(
            f"error of every module: at most {max(known):.4f} times the optimum, as estimated, or below "
            "float32 resolution"
        )
    if rows[0]["ignored"]:
        names = rows[0]["ignored"]
        echo(f"changed but not extracted: {len(names)}: {shortened(names)}")


def _excess(sidecar: dict[str, Any]) -> float | None:
    """The largest ratio of error to optimum of any module; None for other backends."""
    if "backend" in sidecar:
        return None
    return max((module["excess"] or 1.0 for module in sidecar["modules"].values()), default=1.0)


def _short_of_energy(sidecar: dict[str, Any]) -> int:
    """Number of modules with less than the requested energy."""
    requested = sidecar["asked"].get("energy", 0)
    return sum(
        module["energy"] < requested * (1 - 1e-6) and module["rank"] >= sidecar["asked"]["rank"]
        for module in sidecar["modules"].values()
    )
