"""`contextgraft plan`: what a study, an evaluation or a training costs, before anything is loaded or run."""

import click
from typing_extensions import override

from contextgraft.cli.lazy_group import LazyGroup

VERBS = {
    "study": "every step of a study: bytes, hours, GPUs, disk",
    "evaluation": "an evaluation: memory, hours, devices",
    "training": "a training: operations, memory of a rank, traffic between nodes",
}


class PlanGroup(LazyGroup):
    """Also understands the older forms `plan MODEL ...` and `plan --config STUDY ...`."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.verbs, *ctx.help_option_names):
            study = [arg.removeprefix("--config=") for arg in args if arg != "--config"]
            args = ["evaluation", *args] if study == args else ["study", *study]
        return super().parse_args(ctx, args)


@click.group(cls=PlanGroup, verbs=VERBS, package=__name__, no_args_is_help=False)
def command() -> None:
    """Print what a study, an evaluation or a training costs, from configuration files alone.

    No model is read and nothing is run. Hours are estimates.
    """
