"""`contextgraft train`: a recipe in, a model folder out."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from contextgraft.cli import plan_training
from contextgraft.cli.options import replace_option
from contextgraft.cli.progress import hub_progress

TOGETHER = ("context_parallel", "layout", "ranks_per_node", "dtype", "rows_at_once", "keep", "patience")
RUNNING = (
    "out",
    "replace",
    "threads",
    "seed",
    "checkpoint_seconds",
    "keep",
    "patience",
    "measures",
    "tensorboard",
)
ELSEWHERE = (*TOGETHER, *plan_training.NAMES)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="recipe of the run (YAML)")
@click.option(
    "--base", type=click.Path(path_type=Path), required=True, help="folder of the model to start from"
)
@click.option("--out", type=click.Path(path_type=Path), help="folder of the trained model")
@click.option("--seed", type=click.IntRange(min=0), help="instead of the recipe's: batches are drawn from it")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; other counts give other roundings")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="set the run aside this often; an interrupted run resumes there",
)
@click.option(
    "--context-parallel",
    type=click.IntRange(min=1),
    help="processes that share a sequence; the others take other rows [torchrun; default: all]",
)
@click.option(
    "--layout",
    type=click.Choice(["flat", "double", "usp", "torch"]),
    help="how they share it; torch: as flat, by torch's own loops [torchrun; default: by nodes and heads]",
)
@click.option(
    "--ranks-per-node",
    type=click.IntRange(min=1),
    help="[torchrun; default: what torchrun started on a node]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="of activations; weights and sums stay float32 [torchrun; default: float32, on GPUs bfloat16]",
)
@click.option(
    "--rows-at-once",
    type=click.IntRange(min=1),
    help="rows of a batch in one pass, gradients add up [torchrun; default: all]",
)
@click.option(
    "--keep", type=click.IntRange(min=1), default=2, help="checkpoints to keep [torchrun; default: 2]"
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=600.0,
    help="seconds without a word from another process that end the run [torchrun; default: 600]",
)
@click.option(
    "--measures",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Parquet file for speed, memory, gradient norm and bytes moved, a row a step",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    help="folder for TensorBoard's event files of the same; needs the package tensorboard",
)
@replace_option
@click.option("--json", "as_json", is_flag=True, help="print the last step's metrics, or the plan, as JSON")
@plan_training.options
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    out: Path | None,
    threads: int | None,
    plan: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a model by a recipe, in progressive stages; the same command resumes an interrupted run.

    Started by torchrun, all its processes train one model together, with the result of one process but for
    rounding.
    """
    if plan:
        _refuse(_given(context, RUNNING), "is for a run, not for --plan")
        plan_training.show(options.pop("config"), options.pop("base"), as_json=as_json, **options)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'")
    _refuse(_given(context, plan_training.NAMES), "is for --plan")
    import torch

    from contextgraft.training.parallel.process_group import launched, on_gpu

    if threads is not None:
        torch.set_num_threads(threads)
    launch = launched(os.environ) or on_gpu()
    if launch is None:
        _refuse(_given(context, TOGETHER), "is for many processes: start the command by torchrun")
    with _terminated() as stop:
        common = {name: value for name, value in options.items() if name not in ELSEWHERE}
        last = _alone(out, common, stop) if launch is None else _together(launch, out, common, options, stop)
    if last is None:
        return
    if as_json:
        click.echo(json.dumps(last, sort_keys=True))
    else:
        accuracy = "" if last["accuracy"] is None else f", answers right {last['accuracy']:.1%}"
        click.echo(
            f"{out}: {last['step']} steps, theta {last['theta']:,.0f}, loss {last['loss']:.4f}{accuracy}"
        )


def _given(context: click.Context, names: Sequence[str]) -> list[str]:
    """Those of the options that were asked for."""
    return [name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT]


def _refuse(given: Sequence[str], why: str) -> None:
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} {why}")


def _alone(out: Path, common: dict[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
    from contextgraft.training.trainer import train

    config, base = common.pop("config"), common.pop("base")
    return train(config, base, out, tell=_tell, stop=stop, library=_library(stop), **common)


def _together(
    launch: Any, out: Path, common: dict[str, Any], options: dict[str, Any], stop: Callable[[], bool]
) -> dict[str, Any] | None:
    """The same in one process of many; one of them tells what happens."""
    from datetime import timedelta

    import torch

    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.training.parallel.engine import Options, Together
    from contextgraft.training.parallel.process_group import ElsewhereError, joined
    from contextgraft.training.trainer import train

    tell = _tell if launch.rank == 0 else _silent
    how = Options(
        context=options["context_parallel"],
        layout=options["layout"],
        ranks_per_node=options["ranks_per_node"],
        dtype=getattr(torch, options["dtype"] or ("bfloat16" if torch.cuda.is_available() else "float32")),
        rows=options["rows_at_once"],
        keep=options["keep"],
        patience=timedelta(seconds=options["patience"]),
    )
    config, base = common.pop("config"), common.pop("base")
    try:
        with joined(launch, how.patience) as where:
            engine = Together(launch, where, how, open_model(base).config, tell)
            library = _library(stop)
            last = train(config, base, out, engine=engine, tell=tell, stop=stop, library=library, **common)
    except ElsewhereError:
        sys.exit(2)
    except KeyboardInterrupt:
        if launch.rank:
            sys.exit(130)
        raise
    return last if launch.rank == 0 else None


def _library(stop: Callable[[], bool]) -> Any:
    """Data sets from the hub; a fetch ends when the run is to stop."""
    from contextgraft.sources.hub.client import Hub
    from contextgraft.sources.hub.dataset import HubLibrary

    return HubLibrary(Hub(watch=hub_progress("train", stop)))


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _silent(_: str) -> None:
    pass


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, which is how Slurm says that time is up: the run is set aside and ends.

    Whether the block has ended, too: what still works in other threads then ends as well.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        came.append(0)
        signal.signal(signal.SIGTERM, before)
