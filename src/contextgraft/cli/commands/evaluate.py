"""`contextgraft evaluate`: evaluates models; one Parquet row per sample."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.commands.replay import replay_sample
from contextgraft.cli.evaluate.config import asked_config, backend_config, check_folder, split_label
from contextgraft.cli.evaluate.graft_options import ADAPTER_OPTIONS, EXAMPLE
from contextgraft.cli.evaluate.options import (
    BACKEND_OPTIONS,
    CONFIG_OPTIONS,
    SUITE_OPTION,
    config_flags,
    option_groups,
)
from contextgraft.cli.evaluate.outputs import (
    GraftOutputs,
    check_out,
    check_outputs_apart,
    graft_outputs,
    missing_recommendation,
    write_alignments,
)
from contextgraft.cli.graft_options import DEFAULTS, GRAFT_OPTIONS
from contextgraft.cli.options import PARQUET_PATH, json_option, skip_existing_option, skipped
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import local_folders, weight_bytes
from contextgraft.cli.verbosity import progress_stream
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.errors import InputError

if TYPE_CHECKING:
    from contextgraft.cli.evaluate.grafts import ControlModels, GraftVariant
    from contextgraft.config.evaluation import EvaluationConfig
    from contextgraft.evaluation.spec import EvalSpec

Models = list[tuple[str | None, Path]]
OUTPUT_OPTIONS = (
    click.option("--out", type=PARQUET_PATH, help="Parquet file to write; required, except with --dry-run."),
    click.option(
        "--allow-refused",
        is_flag=True,
        help="A model that cannot be evaluated, or an adapter that does not fit, gets one row that says why, "
        "and the exit code is 0.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Show what would be evaluated and how many tokens it takes; no weights are loaded.",
    ),
    skip_existing_option,
    json_option(),
    click.option("--plan", is_flag=True, hidden=True),  # old spellings: --dry-run and the command `replay`
    click.option("--replay", metavar="FILE:ROW", hidden=True),
    click.option("--show-prompt", is_flag=True, hidden=True),
)


@click.command(epilog=EXAMPLE)
@click.argument("models", metavar="[LABEL=]MODEL...", nargs=-1, required=True)
@option_groups(
    (SUITE_OPTION, *CONFIG_OPTIONS),
    config_flags(),
    (*ADAPTER_OPTIONS, *GRAFT_OPTIONS),
    BACKEND_OPTIONS,
    OUTPUT_OPTIONS,
)
def command(**params: Any) -> None:
    """Evaluate models and write one Parquet row per sample.

    needle: sentences hidden in a text, a grid of lengths and depths. ruler: RULER's synthetic tasks. skill: a
    fine-tune's own questions; long_skill: the same behind a long text; repetition: whether their long answers
    end and do not repeat. perplexity: by position in a text; long_perplexity: on tokens that need the far
    context (--config names its reference). divergence: from a reference model's predictions.

    With --adapter, the first MODEL is evaluated alone and with each adapter, as if `contextgraft merge` had
    written the grafts: in memory, with the same bytes and the same rows. No weights are written; --record,
    --alignment and --recommendation write small files in addition to the table.

    An interrupted run resumes when the same command is run again; nothing is computed twice.
    """
    labelled = [split_label(model) for model in params["models"]]
    folders = local_folders("evaluate", *(folder for _, folder in labelled))
    models = [(label, folder) for (label, _), folder in zip(labelled, folders, strict=True)]
    for label, folder in models:
        check_folder(label, folder)
    for name in ("base", "rope_from"):
        if params[name] is not None:
            (params[name],) = local_folders("evaluate", params[name])
    outputs = graft_outputs(params)
    if params["replay"] is not None:
        if params["adapters"]:
            raise click.UsageError("--replay replays a model of a folder; merge the adapter first")
        replay_models(params, models)
        return
    skip = params["skip_existing"]
    if params["out"] is not None and skipped(params["out"], *outputs.files(), skip_existing=skip):
        return
    config = asked_config(params)
    if params["plan"] or params["dry_run"]:
        with grafts_of(params, adapter_folders(params), outputs) as variants:
            show_plan(params, config, models, variants)
        return
    out, spec = checked_out(params["out"], config)
    outputs.check(out)
    adapters = adapter_folders(params)
    check_outputs_apart(params, [*models, *adapters], outputs)
    with grafts_of(params, adapters, outputs) as variants:
        run(params, config, spec, models, out, variants=variants, adapters=adapters, outputs=outputs)


@contextmanager
def grafts_of(
    params: dict[str, Any], folders: Models, outputs: GraftOutputs
) -> Iterator["Sequence[GraftVariant]"]:
    """The grafts that --adapter, --scale and --control describe; their small files exist inside the block."""
    if not params["adapters"]:
        if params["scales"] or params["controls"] or outputs.options != DEFAULTS:
            raise click.UsageError("--scale, --control and options of grafts need an --adapter")
        if params["donors"] or params["short_donor"]:
            raise click.UsageError("--donor and --short-donor need an --adapter and a --control")
        yield ()
        return
    from tempfile import TemporaryDirectory

    from contextgraft.cli.evaluate.grafts import check_known_labels, graft_variants, labelled_adapters
    from contextgraft.cli.options import threads_or_cores

    outputs.options.check_folder()
    adapters = labelled_adapters(folders)
    check_known_labels("--alignment", outputs.alignments, [adapter.label for adapter in adapters])
    with TemporaryDirectory(prefix="contextgraft-") as folder:
        yield graft_variants(
            folders,
            params["scales"] or (1.0,),
            params["controls"],
            Path(folder),
            threads_or_cores(params["threads"]),
            records=outputs.records,
            models=control_models(params, outputs.base),
            options=outputs.options,
        )


def control_models(params: dict[str, Any], base: Path | None) -> "ControlModels":
    """The local folders of --base, each --donor and --short-donor."""
    from contextgraft.cli.evaluate.grafts import ControlModels

    donors = local_folders("evaluate", *params["donors"])
    short = local_folders("evaluate", params["short_donor"])[0] if params["short_donor"] else None
    for folder in (*donors, *([short] if short else [])):
        check_folder(None, folder)
    return ControlModels(base, donors, short)


def adapter_folders(params: dict[str, Any]) -> Models:
    """Label and local folder of each --adapter."""
    return [
        (label, local_folders("evaluate", folder)[0])
        for label, folder in map(split_label, params["adapters"])
    ]


def run(
    params: dict[str, Any],
    config: "EvaluationConfig",
    spec: "EvalSpec",
    models: Models,
    out: Path,
    *,
    variants: "Sequence[GraftVariant]",
    adapters: Models,
    outputs: GraftOutputs,
) -> None:
    """Evaluate, write the table, print its scores.

    Exit code 2 if an adapter did not fit, 1 if failed prompts left no recommendation.
    """
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.checkpoint.model_folder import open_model

    if not params["allow_refused"]:
        for folder in [*(folder for _, folder in models), *filter(None, [outputs.base])]:
            open_model(folder)
        for _, folder in adapters:
            open_adapter(folder)

    import torch

    from contextgraft.evaluation.progress import TerminalProgress
    from contextgraft.evaluation.run import evaluate_models
    from contextgraft.evaluation.sample_rows import refused_rows
    from contextgraft.evaluation.summary import as_json, summarise

    if params["threads"]:
        torch.set_num_threads(params["threads"])
    size = format_bytes(weight_bytes(*(folder for _, folder in models)))
    echo(f"evaluate: {len(models) + len(variants)} model(s); first {size} are read", err=True)
    if outputs.alignments:  # before the evaluation, which takes longer: nothing of it is lost by an error
        align(params, adapters, outputs, models[0][1])
    with TerminalProgress(len(models) + len(variants), progress_stream()) as progress:
        table = evaluate_models(
            models,
            spec,
            backend_config(params, config),
            out,
            progress,
            reference=config.divergence.reference if config.divergence else None,
            allow_refused=params["allow_refused"],
            variants=variants,
            publishing=partial(outputs.written_with, target=models[0][1]) if outputs.files() else None,
        )
    scores = summarise(table)
    if params["as_json"]:
        print_json(as_json(scores))
    else:
        from contextgraft.cli.evaluate.table import print_scores

        print_scores(scores)
    refused = [] if params["allow_refused"] else refused_rows(table)
    for label, _, reason in refused:
        echo(f"contextgraft: error: {label}: {reason}", err=True)
    if refused:
        echo(f"evaluate: {len(refused)} of {len(variants)} grafts were refused", err=True)
        sys.exit(2)
    missing = missing_recommendation(outputs, table)
    if missing:
        echo(f"contextgraft: error: {missing}", err=True)
        sys.exit(1)


def align(params: dict[str, Any], adapters: Models, outputs: GraftOutputs, target: Path) -> None:
    """Write the alignments of --alignment."""
    from contextgraft.cli.evaluate.grafts import labelled_adapters
    from contextgraft.cli.options import threads_or_cores

    folders = {adapter.label: adapter.path for adapter in labelled_adapters(adapters)}
    threads = threads_or_cores(params["threads"])
    write_alignments(outputs, folders, target, threads, allow_refused=params["allow_refused"])


def show_plan(
    params: dict[str, Any],
    config: "EvaluationConfig",
    models: Models,
    variants: "Sequence[GraftVariant]",
) -> None:
    """Print what would be evaluated."""
    from contextgraft.evaluation.spec import build_spec

    spec = build_spec(config)

    from contextgraft.evaluation.dry_run import as_json, dry_run

    plans = dry_run(models, spec, backend_config(params, config), variants)
    if params["as_json"]:
        print_json(as_json(plans))
    else:
        from contextgraft.cli.evaluate.table import print_plans

        print_plans(plans)


def replay_models(params: dict[str, Any], models: Models) -> None:
    """The old spelling of `contextgraft replay`: --replay FILE:ROW."""
    if len(models) > 2:
        raise InputError(
            "a sample is of one model",
            expected="its folder, and for divergence that of the reference model",
            received=f"{len(models)} folders",
        )
    file, colon, number = params["replay"].rpartition(":")
    if not colon or not number.isdigit():
        raise InputError(
            "does not name a sample", path=params["replay"], expected="FILE.parquet:ROW, rows counted from 0"
        )
    replay_sample(params, Path(file), int(number), *(folder for _, folder in models))


def checked_out(out: Path | None, config: "EvaluationConfig") -> tuple[Path, "EvalSpec"]:
    """The output file and the specification; what they lack is one error.

    The specification is built once: a text may be a pipe, and data sets take their time.
    """
    from contextgraft.evaluation.spec import EvalSpec, build_spec

    collector, checked, spec = MistakeCollector(), Path(), EvalSpec()
    with collector.check():
        checked = check_out(out)
    with collector.check():
        spec = build_spec(config)
    collector.raise_mistakes()
    return checked, spec
