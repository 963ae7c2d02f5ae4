"""`contextgraft plan training`: what a training costs on a number of ranks."""

from pathlib import Path
from typing import Any

import click

from contextgraft.cli import plan_training
from contextgraft.cli.options import COUNT, PATH, json_option
from contextgraft.cli.plan_training import hardware_options


@click.command()
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
def command(*, recipe: Path, base: Path, as_json: bool, **values: Any) -> None:
    """Print operations, memory of a rank and traffic between nodes of a training.

    RECIPE is a training recipe (YAML).
    """
    plan_training.show(recipe, base, as_json=as_json, **values)
