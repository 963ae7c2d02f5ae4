"""`contextgraft merge`: merge adapters into fine-tunes."""

import sys
from collections.abc import Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.graft_options import GRAFT_OPTIONS, GraftOptions
from contextgraft.cli.merge.mergekit import MERGEKIT_OPTION, check_dtypes, show_equivalent
from contextgraft.cli.option_types import RealNumber
from contextgraft.cli.options import (
    PATH,
    check_device,
    combine,
    device_option,
    example,
    json_option,
    name_options,
    replace_option,
    skip_existing_option,
    skipped,
    threads_option,
    threads_or_cores,
)
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import local_folders

if TYPE_CHECKING:
    from contextgraft.adapter.merge.merge import ManifestCheck
    from contextgraft.adapter.merge.plan import MergePlan
    from contextgraft.adapter.mergekit.equivalent import MergekitMerge


@click.command(
    epilog=example(
        "contextgraft merge --adapter adapters/r32 --target my-fine-tune --out graft",
        "contextgraft merge --adapter llama3-70b-1048k --target hf:OWNER/TUNE --out graft",
    )
)
@click.option(
    "--adapter", "adapters", type=PATH, multiple=True, required=True,
    help="A PEFT LoRA: a folder, a source of fetch, or the name of a known adapter; repeatable: the deltas "
    "are added.",
)  # fmt: skip
@click.option(
    "--target", "targets", type=PATH, multiple=True, required=True,
    help="A fine-tune, which is not changed: a folder or a source of fetch; repeatable: one graft for each.",
)  # fmt: skip
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Output folder; with several targets, the parent of their folders.",
)
@click.option(
    "--scale", "scales", type=RealNumber(), multiple=True,
    help="Factor on the delta: one for each --adapter, or one for all; default 1; 0 changes no weight.",
)  # fmt: skip
@MERGEKIT_OPTION
@combine(*GRAFT_OPTIONS)
@click.option(
    "--recommended",
    type=PATH,
    metavar="FILE",
    help="Merge only the --adapter of the rank that FILE names, which `contextgraft evaluate "
    "--recommendation` wrote.",
)
@click.option(
    "--verify",
    "verdict",
    type=PATH,
    metavar="FILE",
    help="Verify the graft when it is written, and write the result of `contextgraft verify --json` to FILE.",
)
@device_option
@threads_option("Tensors")
@replace_option
@skip_existing_option
@json_option()
def command(
    *,
    adapters: tuple[Path, ...],
    targets: tuple[Path, ...],
    out: Path,
    scales: tuple[float, ...],
    mergekit: "MergekitMerge | None",
    rope_from: Path | None,
    keep_rope: bool,
    rounding: str,
    replace_modules: bool,
    recommended: Path | None,
    verdict: Path | None,
    device: str,
    threads: int | None,
    replace: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Merge adapters into fine-tunes of the same base, and apply the donor's context settings.

    The donor's RoPE settings, attention settings and context length are written into each graft's config,
    tokenizer and generation config.

    The same command resumes an interrupted run. If the graft exists already, of the same adapters, target and
    options, the command says so and exits with 0.
    """
    show_equivalent(mergekit, click.get_current_context())
    if (recommended or verdict) and len(targets) > 1:
        raise click.UsageError("--recommended and --verify are for one --target")
    if recommended and any(scale != 1 for scale in scales):
        raise click.UsageError(
            "--recommended and --scale cannot be combined: grafts are recommended at scale 1"
        )
    options = GraftOptions(rope_from, keep_rope, rounding, replace_modules)
    from contextgraft.checkpoint.atomic import check_file_output
    from contextgraft.checkpoint.replaceable import check_apart, check_json_replaceable
    from contextgraft.formats.sidecar import is_record

    others = [verdict] if verdict else []
    left = [
        (target, folder)
        for target, folder in zip(targets, _outs(targets, out), strict=True)
        if is_record(folder) or not skipped(folder, *others, skip_existing=skip_existing)
    ]
    if not left:
        return
    targets, outs = zip(*left, strict=True)
    inputs = [*adapters, *targets, *([rope_from] if rope_from else [])]
    for output in (*outs, *others):
        check_apart(output, inputs)
    if verdict is not None:
        check_file_output(verdict)
        check_json_replaceable(verdict, ("holds",), "the result of a verification")

    from contextgraft.checkpoint.file_io import read_ahead

    adapters, targets = local_folders("merge", *adapters), local_folders("merge", *targets)
    if rope_from:
        options = replace_fields(options, rope_from=local_folders("merge", rope_from)[0])
    read_ahead(targets[0])
    from contextgraft.cli.merge.outcome import recommended_adapter, refusal_verdict, write_verdict

    threads = threads_or_cores(threads)
    if verdict is not None:
        verdict.unlink(missing_ok=True)  # it is of an earlier graft
    check: ManifestCheck = None
    with refusal_verdict(verdict):
        if recommended is not None:
            chosen = recommended_adapter(recommended, adapters, targets[0])
            adapters, scales = (chosen.path,), ()
            check = chosen.check_manifest
        plans = _plans(adapters, scales, targets, options)
        if mergekit is not None:
            check_dtypes(mergekit, plans[0])
        if recommended is not None:
            chosen.check_plan(plans[0])
        check_device(device)
        _run(plans, outs, check, replace=replace, threads=threads, device=device, as_json=as_json)
    if verdict is not None:
        write_verdict(verdict, out, target=targets[0], adapters=adapters, threads=threads)


def _plans(
    adapters: Sequence[Path], scales: tuple[float, ...], targets: Sequence[Path], options: GraftOptions
) -> "list[MergePlan]":
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge

    pairs = zip(adapters, _one_each(scales, len(adapters)), strict=True)
    scaled = [ScaledAdapter(open_adapter(path), scale) for path, scale in pairs]
    opened = [one.adapter for one in scaled]
    return [plan_merge(scaled, target, **options.arguments(opened, target)) for target in targets]


def _run(
    plans: "Sequence[MergePlan]",
    outs: Sequence[Path],
    check: "ManifestCheck",
    *,
    replace: bool,
    threads: int,
    device: str,
    as_json: bool,
) -> None:
    """Merge all targets, one after another; the failure of one does not stop the others."""
    from contextgraft.adapter.merge.manifest import finished, summary
    from contextgraft.checkpoint.atomic import remove_leftovers
    from contextgraft.errors import ContextgraftError

    results, failed = [], []
    for plan, out in zip(plans, outs, strict=True):
        try:
            known = finished(plan, out) if len(plans) > 1 or not replace else None
            if known:
                remove_leftovers(out)
                echo(f"merge: {out} exists already, with the same adapters and target", err=True)
            if known and check:
                check(known)
            manifest = known or _merge(plan, out, check, replace=replace, threads=threads, device=device)
            results.append({"path": str(out), **summary(manifest)})
        except ContextgraftError as error:
            if len(plans) == 1:
                raise
            name_options(error, click.get_current_context())
            failed.append(out)
            echo(f"contextgraft: error: {error}", err=True)
            continue
        if not as_json:
            _show(results[-1])
    if as_json:
        print_json(results if len(plans) > 1 else results[0])
    if failed:
        echo(f"merge: {len(failed)} of {len(plans)} grafts failed", err=True)
        sys.exit(2)


def _merge(
    plan: "MergePlan", out: Path, check: "ManifestCheck", *, replace: bool, threads: int, device: str
) -> dict[str, Any]:
    from contextgraft.adapter.merge.merge import merge
    from contextgraft.cli.progress import bytes_bar

    echo(
        f"merge: {plan.target.path}: {format_bytes(plan.bytes_to_read)} to read and write in "
        f"{len(plan.target.shards)} file(s); {len(plan.changed)} of {len(plan.target.tensors)} tensors "
        f"change; about {format_bytes(plan.peak_bytes(threads))} of memory in addition to the program's own, "
        f"with {threads} thread(s).",
        err=True,
    )
    for warning in plan.warnings:
        echo(f"contextgraft: warning: {warning}", err=True)
    with bytes_bar("merge", plan.bytes_to_read) as advance:
        return merge(plan, out, replace=replace, threads=threads, device=device, advance=advance, check=check)


def _show(result: dict[str, Any]) -> None:
    before, after = result["rope"]["before"], result["rope"]["after"]
    echo(f"graft        {result['path']}")
    echo(f"tensors      {result['changed']} of {result['tensors']} changed")
    echo(
        f"delta        norm {result['delta_norm']:.6g} requested, {result['survived_norm']:.6g} after "
        f"rounding ({result['rounding']}), {result['kept']:.2%} of the delta retained"
    )
    echo(f"rope theta   {before['theta']:g} -> {after['theta']:g}")
    echo(f"positions    {before['max_positions']} -> {after['max_positions']}")
    for name, setting in result["attention"].items():
        echo(f"{name}  {setting['base']} -> {setting.get('donor')}")
    for key in ("replaced", "left_out"):
        if result[key]:
            echo(f"{key.replace('_', ' '):<12} {', '.join(result[key])}")


def _one_each(scales: tuple[float, ...], count: int) -> tuple[float, ...]:
    if len(scales) in (0, 1):
        return (scales or (1.0,)) * count
    if len(scales) != count:
        raise click.UsageError(
            f"expected one --scale, or one for each of {count} adapters; received {len(scales)}"
        )
    return scales


def _outs(targets: tuple[Path, ...], out: Path) -> list[Path]:
    """The output folder of each target: `out`, or for several targets `out`/<name of the target>."""
    names = [target.resolve().name for target in targets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise click.UsageError(f"two targets are named {twice!r}: merge them with two commands")
    return [out] if len(targets) == 1 else [out / name for name in names]
