"""`contextgraft train`: a recipe in, a model folder out."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from contextgraft.cli import plan_training
from contextgraft.cli.option_types import COUNT, Choice, RealNumber, WholeNumber
from contextgraft.cli.options import PATH, example, json_option, replace_option, skip_existing_option, skipped
from contextgraft.cli.output import echo
from contextgraft.cli.progress import hub_progress

if TYPE_CHECKING:
    from contextgraft.training.parallel.process_group import RankInfo
    from contextgraft.training.trainer import TrainingOptions

TRACKERS = ("tensorboard", "wandb", "mlflow")
# options that only a run has, and those of them that only torchrun's processes have; --plan has others
RUN = (
    *("out", "replace", "threads", "seed", "checkpoint_seconds", "skip_existing"),
    *("keep", "patience", "measures", "max_shard_size", "device", "flash_attention_3", *TRACKERS),
)
TORCHRUN = (
    *("context_parallel", "layout", "ranks_per_node", "data_parallel_replicate", "sync_gradients_once"),
    *("keep", "patience"),
)


class Reporter:
    """Prints the lines of a run on stderr, unless it is silent, and passes on requests to stop."""

    def __init__(self, *, silent: bool) -> None:
        self.silent, self.stopping = silent, False

    def message(self, line: str) -> None:
        """Print one line on stderr, unless the reporter is silent."""
        if not self.silent:
            echo(line, err=True)

    def request_stop(self, *_: object) -> None:
        """Ask the run to stop; can be used as a signal handler."""
        self.stopping = True

    def stop_requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self.stopping


@click.command(epilog=example("contextgraft train --config config/demo/donor.yaml --base base --out donor"))
@click.option("--config", type=PATH, required=True, help="Recipe of the run (YAML).")
@click.option("--base", type=PATH, required=True, help="Folder of the model to start from.")
@click.option("--out", type=PATH, help="Folder of the trained model; required.")
@click.option("--seed", type=WholeNumber(min=0), help="Seed of the batches, instead of the recipe's.")
@click.option("--threads", type=COUNT, help="Number of CPU threads; another number changes the rounding.")
@click.option(
    "--checkpoint-seconds",
    type=RealNumber(min=0),
    help="Seconds between checkpoints; an interrupted run resumes at the last one [default: at least 30, and "
    "so many that one is being written for at most 5% of the time].",
)
@click.option(
    "--device", type=Choice(["cpu", "cuda"]), help="Device [default: a GPU if there is one, else cpu]."
)
@click.option(
    "--flash-attention-3",
    is_flag=True,
    help="Attention by FlashAttention-3 on Hopper GPUs; needs its package flash_attn_interface.",
)
@plan_training.parallel_options(
    condition="torchrun; ", node="as torchrun started them", dtype="float32, bfloat16 on GPUs"
)
@click.option("--keep", type=COUNT, default=2, help="Number of checkpoints kept [torchrun; default: 2].")
@click.option(
    "--patience",
    type=RealNumber(min=1),
    default=600.0,
    help="Seconds to wait for another process before the run ends with an error [torchrun; default: 600].",
)
@click.option(
    "--measures",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Parquet file for speed, memory, gradient norm and bytes sent, one row per step.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False),
    help="Folder for TensorBoard event files of the same values; needs the package tensorboard.",
)
@click.option("--wandb", help="Project of Weights & Biases for the same values; needs the package wandb.")
@click.option("--mlflow", help="Experiment of MLflow for the same values; needs the package mlflow.")
@click.option(
    "--max-shard-size",
    type=plan_training.POSITIVE,
    default=5e9,
    help="Bytes of one weights file of the result; larger ones are several, with an index [default: 5e9].",
)
@replace_option
@skip_existing_option
@json_option("Print the metrics of the last step, or the plan, as JSON.")
@plan_training.options
@click.pass_context
def command(context: click.Context, /, *, plan: bool, as_json: bool, **options: Any) -> None:
    """Train a model by a recipe, in progressive stages; the same command resumes an interrupted run.

    Started by torchrun, all its processes train one model; the result is that of one process except for
    rounding.
    """
    given = [
        name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    ]
    if plan:
        _refuse(given, RUN, "cannot be combined with --plan")
        chosen = {name: value for name, value in options.items() if name not in RUN}
        plan_training.show(as_json=as_json, **chosen)
        return
    if options["out"] is None:
        raise click.UsageError("Missing option '--out'")
    if skipped(options["out"], skip_existing=options["skip_existing"]):
        return
    _refuse(given, plan_training.NAMES, "needs --plan")
    if "RANK" not in os.environ:  # not by torchrun, whose processes must agree on who reports an error
        _check_inputs(options)
    import torch

    from contextgraft.training.parallel.process_group import torchrun_env
    from contextgraft.training.trainer import TrainingOptions

    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    info = torchrun_env(os.environ)
    if info is None:
        _refuse(given, TORCHRUN, "needs processes started by torchrun")
    settings = TrainingOptions(
        seed=options["seed"],
        checkpoint_seconds=options["checkpoint_seconds"],
        measures=options["measures"],
        trackers={name: options[name] for name in TRACKERS if options[name] is not None},
        max_shard_size=options["max_shard_size"],
        replace=options["replace"],
    )
    reporter = Reporter(silent=info is not None and info.rank > 0)
    with _stop_on_sigterm(reporter):
        if info is None:
            metrics = _train(options, settings, reporter)
        else:
            metrics = _train_rank(info, options, settings, reporter)
    if metrics is None:
        return
    if as_json:
        echo(json.dumps(metrics, sort_keys=True))
    else:
        accuracy = "" if metrics["accuracy"] is None else f", answers right {metrics['accuracy']:.1%}"
        echo(
            f"{options['out']}: {metrics['step']} steps, theta {metrics['theta']:,.0f}, "
            f"loss {metrics['loss']:.4f}{accuracy}"
        )


def _check_inputs(options: dict[str, Any]) -> None:
    """Raise an error about the recipe, the base or an output before torch is imported."""
    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.checkpoint.replaceable import check_apart
    from contextgraft.config.training import load_recipe

    for output in filter(None, (options[name] for name in ("out", "measures", "tensorboard"))):
        check_apart(Path(output), [options["base"], options["config"]])
    load_recipe(options["config"])
    open_model(options["base"])


def _refuse(given: Iterable[str], names: Iterable[str], reason: str) -> None:
    """Raise UsageError if one of the given options is among `names`."""
    refused = [name for name in given if name in names]
    if refused:
        raise click.UsageError(f"--{refused[0].replace('_', '-')} {reason}")


def _train(options: dict[str, Any], settings: "TrainingOptions", reporter: Reporter) -> dict[str, Any] | None:
    """Train in this process, on one device; returns the metrics of the last step."""
    from dataclasses import replace

    import torch

    from contextgraft.planning.mfu.model_flops import model_flops
    from contextgraft.training.engine import SingleProcessEngine
    from contextgraft.training.parallel.devices import choose_device, choose_dtype, use_flash_attention_3
    from contextgraft.training.trainer import train

    device = choose_device(options["device"])
    dtype = choose_dtype(_dtype(options), device)
    if options["flash_attention_3"]:
        use_flash_attention_3(torch.device(device))
    config, base, peak = options["config"], options["base"], options["device_flops"]
    flops = model_flops(config, base, device=device, dtype=dtype, peak=peak)
    return train(
        config,
        base,
        options["out"],
        replace(settings, flops=flops),
        engine=SingleProcessEngine(device, dtype, options["rows_at_once"]),
        reporter=reporter,
        datasets=_datasets(reporter),
    )


def _dtype(options: dict[str, Any]) -> str | None:
    """The dtype of --dtype, else that of the recipe."""
    from contextgraft.config.training import load_recipe

    return options["dtype"] or load_recipe(options["config"]).dtype


def _train_rank(
    info: "RankInfo", options: dict[str, Any], settings: "TrainingOptions", reporter: Reporter
) -> dict[str, Any] | None:
    """Train as one process of many; only rank 0 returns metrics."""
    from dataclasses import replace
    from datetime import timedelta

    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.planning.mfu.model_flops import model_flops
    from contextgraft.training.parallel.devices import choose_dtype, use_flash_attention_3
    from contextgraft.training.parallel.engine import DistributedEngine
    from contextgraft.training.parallel.options import ParallelOptions
    from contextgraft.training.parallel.process_group import RemoteRankError, process_group
    from contextgraft.training.trainer import train

    config, base, out = options["config"], options["base"], options["out"]
    timeout = timedelta(seconds=options["patience"])
    try:
        with process_group(info, timeout, options["device"]) as device:
            dtype = choose_dtype(_dtype(options), device.type)
            if options["flash_attention_3"]:
                use_flash_attention_3(device)
            flops = model_flops(
                config,
                base,
                device=device.type,
                dtype=dtype,
                devices=info.world_size,
                peak=options["device_flops"],
            )
            parallel = ParallelOptions(
                context_parallel=options["context_parallel"],
                layout=options["layout"],
                ranks_per_node=options["ranks_per_node"],
                dtype=dtype,
                rows_at_once=options["rows_at_once"],
                data_parallel_replicate=options["data_parallel_replicate"] or 1,
                sync_gradients_once=options["sync_gradients_once"],
                keep=options["keep"],
                timeout=timeout,
            )
            engine = DistributedEngine(info, device, parallel, open_model(base).config, reporter)
            metrics = train(
                config,
                base,
                out,
                replace(settings, flops=flops),
                engine=engine,
                reporter=reporter,
                datasets=_datasets(reporter),
            )
    except RemoteRankError:
        sys.exit(2)
    return metrics if info.rank == 0 else None


def _datasets(reporter: Reporter) -> Any:
    """Data sets of the hub; a fetch ends when the run is asked to stop."""
    from contextgraft.sources.hub.client import Hub
    from contextgraft.sources.hub.dataset import HubDatasets

    return HubDatasets(Hub(progress=hub_progress("train", reporter.stop_requested)))


@contextmanager
def _stop_on_sigterm(reporter: Reporter) -> Iterator[None]:
    """Ask the run to stop on SIGTERM, Slurm's signal before the time limit: it saves its state and ends.

    The run is also asked to stop when the block ends, so that its work in other threads ends.
    """
    previous = signal.signal(signal.SIGTERM, reporter.request_stop)
    try:
        yield
    finally:
        reporter.request_stop()
        signal.signal(signal.SIGTERM, previous)
