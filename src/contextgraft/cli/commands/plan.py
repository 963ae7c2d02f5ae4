"""`contextgraft plan`: what an evaluation or a whole study costs, before anything is loaded or bought."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from contextgraft.cli.options import NumberList, RealNumber
from contextgraft.cli.output import print_json

if TYPE_CHECKING:
    from contextgraft.planning.evaluation import Grid
    from contextgraft.planning.inference import Device, Shape

LONGEST = 2**40  # tokens: beyond any claim, and still a number that tables can show
MOST = 10**6
SUITES = ("needle", "ruler", "perplexity", "divergence")


POSITIVE = RealNumber(0, 1e30, min_open=True)
SHARE = RealNumber(0, 1, min_open=True)
OF_A_STUDY = {"config", "at_once", "as_json"}


@click.command()
@click.argument("model", metavar="[MODEL_OR_CONFIG]", required=False)
@click.option(
    "--config", type=click.Path(path_type=Path),
    help="A study's configuration instead: bytes, hours, memory and disk of all its steps.",
)  # fmt: skip
@click.option(
    "--at-once", type=click.IntRange(1, MOST), default=1, show_default=True,
    help="With --config: fine-tunes whose passing grafts are on the disk together.",
)  # fmt: skip
@click.option(
    "--suite",
    "suites",
    type=click.Choice(SUITES),
    multiple=True,
    default=("needle",),
    show_default=True,
    help="What would be asked; repeatable.",
)
@click.option(
    "--lengths",
    type=NumberList(click.IntRange(1, LONGEST), "INT,..."),
    default="131072,1048576",
    show_default=True,
    help="Prompt and answer together, in tokens.",
)
@click.option(
    "--depths",
    type=NumberList(RealNumber(0, 100), "PERCENT,..."),
    default="0,25,50,75,100",
    show_default=True,
    help="Places of the needle in the text.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, MOST),
    default=20,
    show_default=True,
    help="Prompts a length and depth, or a length and task.",
)
@click.option(
    "--distractors",
    type=click.IntRange(0, MOST),
    default=0,
    show_default=True,
    help="Other needles in each text; from one less than the depths on, one text serves all depths.",
)
@click.option("--rank", "ranks", type=click.IntRange(min=1), multiple=True, help="Grafts asked; repeatable.")
@click.option(
    "--fine-tunes", type=click.IntRange(1, MOST), default=1, show_default=True, help="How many are grafted."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="What to compute in; auto: as the config says.",
)
@click.option(
    "--device-flops", type=POSITIVE, default=989e12, show_default=True, help="Of one device at best."
)
@click.option(
    "--utilisation", type=SHARE, default=0.4, show_default=True, help="Share of that which is reached."
)
@click.option(
    "--bandwidth", type=POSITIVE, default=3.35e12, show_default=True, help="Bytes a second of its memory."
)
@click.option("--device-memory", type=POSITIVE, default=80e9, show_default=True, help="Bytes of one device.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str | None,
    config: Path | None,
    at_once: int,
    suites: tuple[str, ...],
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    samples: int,
    distractors: int,
    ranks: tuple[int, ...],
    fine_tunes: int,
    dtype: str,
    device_flops: float,
    utilisation: float,
    bandwidth: float,
    device_memory: float,
    as_json: bool,
) -> None:
    """Say memory, hours and devices of an evaluation, or all of a study, from a config.json alone.

    MODEL_OR_CONFIG is a folder, a config.json, or a shape that comes along: llama3-8b, llama3-70b. Base and
    donor are asked once, each fine-tune alone, with theta only, and at each --rank. The device is an H100
    (SXM, bfloat16) unless told otherwise. Hours are estimates; nothing is run.

    With --config everything is read from the study: its `shape`, what it asks, its `cluster`.
    """
    if (model is None) == (config is None):
        raise click.UsageError("name either a MODEL_OR_CONFIG or a --config")
    if config is not None:
        _refuse_others(context)
        _study(config, at_once, as_json)
        return
    if context.get_parameter_source("at_once") is not ParameterSource.DEFAULT:
        raise click.UsageError("--at-once goes with --config")
    assert model is not None
    from contextgraft.planning import evaluation
    from contextgraft.planning.inference import Device
    from contextgraft.planning.shape import read_shape

    shape = read_shape(model, dtype)
    device = Device(device_flops, utilisation, bandwidth, device_memory)
    grid = evaluation.Grid(lengths, depths, samples, distractors)
    count = evaluation.models(fine_tunes, len(set(ranks)))
    lines = evaluation.lines(shape, device, grid, list(dict.fromkeys(suites)), count)
    if as_json:
        facts = describe(shape, device, grid, count) | {"costs": [asdict(line) for line in lines]}
        print_json(facts)
        return
    from contextgraft.cli.plan_table import show

    show(shape, device, grid, count, lines)


def _refuse_others(context: click.Context) -> None:
    """With --config nothing that the study says itself can be given."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in OF_A_STUDY
        and context.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)}: with --config the study says this itself")


def _study(path: Path, at_once: int, as_json: bool) -> None:
    import shutil

    from contextgraft.cli import plan_study

    found = plan_study.plan(plan_study.read_study(path), at_once)
    free = shutil.disk_usage(".").free
    if as_json:
        print_json(plan_study.to_json(found, free))
        return
    from contextgraft.cli.plan_study_table import show

    show(found, free)


def describe(shape: "Shape", device: "Device", grid: "Grid", count: int) -> dict[str, Any]:
    """Model, device, grid and memory as plain JSON values."""
    from contextgraft.planning import inference

    memory = [
        {
            "length": length,
            "kv_bytes": inference.kv_bytes(shape, length),
            "bytes": inference.weight_bytes(shape) + inference.kv_bytes(shape, length),
            "gpus": inference.gpus(shape, length, device),
        }
        for length in grid.lengths
    ]
    model = asdict(shape) | {
        "layers": len(shape.windows),
        "weight_bytes": inference.weight_bytes(shape),
        "kv_bytes_per_token": inference.kv_bytes_per_token(shape),
    }
    return {
        "model": model,
        "models": count,
        "device": asdict(device),
        "grid": asdict(grid) | {"one_text": grid.one_text},
        "memory": memory,
    }
