"""`contextgraft plan study`: what every step of a study costs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import print_json
from contextgraft.cli.progress import hub_progress

if TYPE_CHECKING:
    from contextgraft.config.resolved_study import ResolvedStudy


@click.command(epilog=example("contextgraft plan study my-study.yaml"))
@click.argument("study", type=PATH, metavar="STUDY")
@click.option("--at-once", type=int, hidden=True, expose_value=False)  # no graft is deleted any more
@click.option(
    "--check",
    is_flag=True,
    help="Also check what jobs would fail with, as a run does before its first job: sources, recipes, "
    "skills, lengths. Reads configs and tokenizers.",
)
@json_option()
def command(*, study: Path, check: bool, as_json: bool) -> None:
    """Print bytes, hours, memory, GPUs and disk of every step of a study.

    STUDY is its configuration (YAML). Model sizes come from its `shape`, speeds from its `cluster`.
    """
    import shutil

    from contextgraft.planning.study import plan_study, read_study, to_json

    resolved = read_study(study)
    if check:
        _check(resolved)
    plan = plan_study(resolved)
    free = shutil.disk_usage(".").free
    if as_json:
        print_json(to_json(plan, free))
        return
    from contextgraft.cli.plan_tables import print_study

    print_study(plan, free)


def _check(study: "ResolvedStudy") -> None:
    """Raise ConfigError, or SeveralMistakes, for what a job would fail with."""
    from contextgraft.planning.preflight import check_study
    from contextgraft.sources.hub.client import Hub

    check_study(study, Path("data", study.settings.study, "models"), Hub(progress=hub_progress("plan")))
