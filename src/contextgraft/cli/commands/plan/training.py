"""`contextgraft plan training`: what a training costs on a number of ranks."""

from pathlib import Path
from typing import Any

import click

from contextgraft.cli import plan_training
from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.plan_training import hardware_options, parallel_options


@click.command(epilog=example("contextgraft plan training config/demo/donor.yaml --base base"))
@click.argument("recipe", type=PATH, metavar="RECIPE")
@click.option("--base", type=PATH, required=True, help="Model folder or config.json of the base.")
@parallel_options(node="at most 8", dtype=plan_training.PLANNED_DTYPE)
@hardware_options()
@json_option()
def command(*, recipe: Path, base: Path, as_json: bool, **values: Any) -> None:
    """Print operations, memory of a rank and traffic between nodes of a training.

    RECIPE is a training recipe (YAML).
    """
    plan_training.show(recipe, base, as_json=as_json, **values)
