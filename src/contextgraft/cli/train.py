"""`contextgraft train`: a recipe in, a model folder out."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="recipe of the run (YAML)")
@click.option(
    "--base", type=click.Path(path_type=Path), required=True, help="folder of the model to start from"
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of the trained model")
@click.option("--seed", type=click.IntRange(min=0), help="instead of the recipe's: batches are drawn from it")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; other counts give other roundings")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="set the run aside this often; an interrupted run resumes there",
)
@click.option("--json", "as_json", is_flag=True, help="print the last step's metrics as JSON")
def command(
    *,
    config: Path,
    base: Path,
    out: Path,
    seed: int | None,
    threads: int | None,
    checkpoint_seconds: float,
    as_json: bool,
) -> None:
    """Train a model by a recipe, in progressive stages; the same command resumes an interrupted run."""
    import torch

    from contextgraft.training.run import train

    if threads is not None:
        torch.set_num_threads(threads)
    last = train(
        config,
        base,
        out,
        seed=seed,
        checkpoint_seconds=checkpoint_seconds,
        tell=lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(last, sort_keys=True))
    else:
        accuracy = "" if last["accuracy"] is None else f", answers right {last['accuracy']:.1%}"
        click.echo(
            f"{out}: {last['step']} steps, theta {last['theta']:,.0f}, loss {last['loss']:.4f}{accuracy}"
        )
