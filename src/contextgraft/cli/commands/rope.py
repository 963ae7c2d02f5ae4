"""`contextgraft rope`: RoPE theta for longer contexts."""

import click

from contextgraft.cli.option_types import Choice, RealNumber, WholeNumber
from contextgraft.cli.options import example, json_option
from contextgraft.cli.output import echo, print_json
from contextgraft.rope.schedule import RULES


@click.command(epilog=example("contextgraft rope --theta 500000 --context 8192 --to 65536 --to 262144"))
@click.option("--theta", type=RealNumber(min=1), required=True, help="RoPE theta of the base.")
@click.option(
    "--context", type=WholeNumber(min=7), required=True, help="Context length of the base in tokens."
)
@click.option(
    "--head-dim",
    type=WholeNumber(min=3),
    default=128,
    show_default=True,
    help="Dimension of one attention head.",
)
@click.option(
    "--to",
    "targets",
    type=WholeNumber(min=7),
    multiple=True,
    required=True,
    help="Context length of a stage; repeatable.",
)
@click.option(
    "--rule",
    type=Choice(list(RULES)),
    default="progressive",
    show_default=True,
    help="progressive: NTK rule, each stage from the previous one; absolute: each stage from the base.",
)
@json_option()
def command(
    *, theta: float, context: int, head_dim: int, targets: tuple[int, ...], rule: str, as_json: bool
) -> None:
    """Compute the RoPE theta of each longer context by a published rule."""
    thetas = RULES[rule](theta, context, targets, head_dim)
    if as_json:
        rows = [{"context": length, "theta": value} for length, value in zip(targets, thetas, strict=True)]
        print_json(rows)
        return
    echo(f"{'context':>12}  {'theta':>14}")
    for length, value in zip(targets, thetas, strict=True):
        echo(f"{length:>12}  {value:>14}")
