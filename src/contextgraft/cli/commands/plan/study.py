"""`contextgraft plan study`: what every step of a study costs."""

from pathlib import Path

import click

from contextgraft.cli.options import PATH, json_option
from contextgraft.cli.output import print_json


@click.command()
@click.argument("study", type=PATH, metavar="STUDY")
@click.option("--at-once", type=int, hidden=True, expose_value=False)  # no graft is deleted any more
@json_option()
def command(*, study: Path, as_json: bool) -> None:
    """Print bytes, hours, memory, GPUs and disk of every step of a study.

    STUDY is its configuration (YAML). Model sizes come from its `shape`, speeds from its `cluster`.
    """
    import shutil

    from contextgraft.planning.study import plan_study, read_study, to_json

    plan = plan_study(read_study(study))
    free = shutil.disk_usage(".").free
    if as_json:
        print_json(to_json(plan, free))
        return
    from contextgraft.cli.plan_tables import print_study

    print_study(plan, free)
