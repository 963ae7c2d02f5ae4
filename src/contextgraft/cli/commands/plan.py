"""`contextgraft plan`: what a study, an evaluation or a training costs, before anything is loaded or run."""

from pathlib import Path
from typing import Any

import click

from contextgraft.cli import plan_training
from contextgraft.cli.options import COUNT, PATH, NumberList, RealNumber, json_option
from contextgraft.cli.output import print_json
from contextgraft.cli.plan_training import MOST, POSITIVE, device_options, hardware_options
from contextgraft.config.evaluation import SECTIONS

LONGEST = 2**40  # tokens: beyond any claim, and still a number that tables can show
SUITES = tuple(name for name in SECTIONS if name != "skill")  # prompts of skills are short


class PlanGroup(click.Group):
    """Also understands the older forms `plan MODEL ...` and `plan --config STUDY ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name the subcommand that an older form means."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            study = [arg.removeprefix("--config=") for arg in args if arg != "--config"]
            args = ["evaluation", *args] if study == args else ["study", *study]
        return super().parse_args(ctx, args)


@click.group(cls=PlanGroup, no_args_is_help=False)
def command() -> None:
    """Print what a study, an evaluation or a training costs, from configuration files alone.

    No model is read and nothing is run. Hours are estimates.
    """


@command.command(short_help="Every step of a study: bytes, hours, GPUs, disk.")
@click.argument("study", type=PATH, metavar="STUDY")
@click.option(
    "--at-once",
    type=click.IntRange(1, MOST),
    default=1,
    show_default=True,
    help="Fine-tunes whose grafts, deleted after evaluation, are on the disk at the same time.",
)
@json_option()
def study(*, study: Path, at_once: int, as_json: bool) -> None:
    """Print bytes, hours, memory, GPUs and disk of every step of a study.

    STUDY is its configuration (YAML). Model sizes come from its `shape`, speeds from its `cluster`.
    """
    import shutil

    from contextgraft.planning.study import plan_study, read_study, to_json

    plan = plan_study(read_study(study), at_once)
    free = shutil.disk_usage(".").free
    if as_json:
        print_json(to_json(plan, free))
        return
    from contextgraft.cli.plan_tables import print_study

    print_study(plan, free)


@command.command(short_help="An evaluation: memory, hours, devices.")
@click.argument("model", metavar="MODEL_OR_CONFIG")
@click.option(
    "--suite",
    "suites",
    type=click.Choice(SUITES),
    multiple=True,
    default=("needle",),
    show_default=True,
    help="What is evaluated; repeatable.",
)
@click.option(
    "--lengths",
    type=NumberList(click.IntRange(1, LONGEST), "INT,..."),
    default="131072,1048576",
    show_default=True,
    help="Length of prompt and answer, in tokens.",
)
@click.option(
    "--depths",
    type=NumberList(RealNumber(0, 100), "PERCENT,..."),
    default="0,25,50,75,100",
    show_default=True,
    help="Positions of the needle in the text.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, MOST),
    default=20,
    show_default=True,
    help="Prompts for each length and depth, or length and task.",
)
@click.option(
    "--distractors",
    type=click.IntRange(0, MOST),
    default=0,
    show_default=True,
    help="Other needles in each text. With at least (number of depths - 1), one text serves all depths.",
)
@click.option("--rank", "ranks", type=COUNT, multiple=True, help="Rank of the grafts; repeatable.")
@click.option(
    "--fine-tunes", type=click.IntRange(1, MOST), default=1, show_default=True, help="Number of fine-tunes."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Dtype of the computation; auto: as in the config.",
)
@device_options()
@click.option(
    "--bandwidth",
    type=POSITIVE,
    default=3.35e12,
    show_default="3.35e12",
    help="Bytes per second of the memory of one device.",
)
@json_option()
def evaluation(
    *,
    model: str,
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
    """Print memory, hours and devices of an evaluation.

    MODEL_OR_CONFIG is a model folder, a config.json, or a shipped shape: llama3-8b, llama3-70b, smollm2-135m.
    Base and donor are evaluated once, each fine-tune alone, with theta only, and at each --rank.
    """
    from contextgraft.planning.shapes.model_shape import read_model_shape

    shape = read_model_shape(model, dtype)
    from contextgraft.planning.evaluation import PromptGrid, count_models, suite_costs, to_json
    from contextgraft.planning.hardware import Hardware

    hardware = Hardware(device_flops, utilisation, bandwidth, device_memory)
    grid = PromptGrid(lengths, depths, samples, distractors)
    models = count_models(fine_tunes, len(set(ranks)))
    costs = suite_costs(shape, hardware, grid, list(dict.fromkeys(suites)), models)
    if as_json:
        print_json(to_json(shape, hardware, grid, models, costs))
        return
    from contextgraft.cli.plan_tables import print_evaluation

    print_evaluation(shape, hardware, grid, models, costs)


@command.command(short_help="A training: operations, memory, traffic.")
@click.argument("recipe", type=PATH, metavar="RECIPE")
@click.option("--base", type=PATH, required=True, help="Model folder or config.json of the base.")
@click.option(
    "--context-parallel",
    type=COUNT,
    help="Ranks that share a sequence; default: all.",
)
@click.option(
    "--layout",
    type=click.Choice(["flat", "double", "usp", "torch"]),
    help="How they share it; default: chosen by nodes and heads.",
)
@click.option("--ranks-per-node", type=COUNT, help="Ranks of a node; default: at most 8.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Dtype of activations; default: float32."
)
@click.option("--rows-at-once", type=COUNT, help="Rows of a batch in one pass; default: all.")
@hardware_options()
@json_option()
def training(*, recipe: Path, base: Path, as_json: bool, **values: Any) -> None:
    """Print operations, memory of a rank and traffic between nodes of a training.

    RECIPE is a training recipe (YAML).
    """
    plan_training.show(recipe, base, as_json=as_json, **values)
