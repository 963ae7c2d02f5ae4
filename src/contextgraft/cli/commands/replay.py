"""`contextgraft replay`: evaluates one recorded sample again and compares the results."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.evaluate.config import backend_config, check_folder, evaluation_config
from contextgraft.cli.evaluate.options import (
    BACKEND_OPTIONS,
    CONFIG_OPTIONS,
    REPLAY_FLAGS,
    config_flags,
    option_groups,
)
from contextgraft.cli.option_types import WholeNumber
from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import bytes_bar, message_writer, weight_bytes

if TYPE_CHECKING:
    from contextgraft.config.evaluation import EvaluationConfig
    from contextgraft.evaluation.spec import EvalSpec
    from contextgraft.evaluation.suites.base import SampleRow


@click.command(epilog=example("contextgraft replay tune.parquet 12 my-fine-tune"))
@click.argument("file", type=PATH)
@click.argument("row", type=WholeNumber(min=0))
@click.argument("model", type=PATH)
@click.argument("reference", type=PATH, required=False)
@option_groups(CONFIG_OPTIONS, config_flags(REPLAY_FLAGS), BACKEND_OPTIONS)
@click.option("--show-prompt", is_flag=True, help="Print the prompt too.")
@click.option(
    "--prompt-only",
    is_flag=True,
    help="Print the prompt alone, without running the model; MODEL needs its tokenizer and config only.",
)
@json_option()
def command(file: Path, row: int, model: Path, reference: Path | None, **params: Any) -> None:
    """Evaluate sample ROW (counted from 0) of the table FILE again and compare with the recorded result.

    MODEL is the folder of the sample's model; a divergence also needs that of its REFERENCE. Needle formats,
    data sets, skills and texts must be given as they were for `contextgraft evaluate`, by --config or one by
    one. The exit code is 1 if the results differ.
    """
    check_folder(None, model)
    if params["prompt_only"]:
        show_prompt(params, file, row, model)
        return
    if reference is not None:
        check_folder(None, reference)
    replay_sample(params, file, row, model, reference)


def show_prompt(params: Mapping[str, Any], file: Path, number: int, model: Path) -> None:
    """Print the prompt of one row, rebuilt with the tokenizer of a model folder."""
    row, spec = row_and_spec(evaluation_config(params), file, number)

    from contextgraft.evaluation.replay import rebuild_prompt

    prompt = rebuild_prompt(row, model, spec)
    if params["as_json"]:
        print_json({"prompt": prompt})
    else:
        echo(prompt)


def replay_sample(
    params: Mapping[str, Any], file: Path, number: int, model: Path, reference: Path | None = None
) -> None:
    """Replay one row and print both results; exit code 1 if they differ."""
    config = evaluation_config(params)
    row, spec = row_and_spec(config, file, number)

    from contextgraft.evaluation import replay
    from contextgraft.evaluation.replay.replayed_sample import as_json

    log, total = message_writer("replay"), weight_bytes(model)
    log(f"row {number}; first {format_bytes(total)} are read to identify the model")
    backend = backend_config(params, config)
    with bytes_bar("replay", total) as advance:
        replayed = replay.replay_sample(row, model, spec, backend, reference, log=log, advance=advance)
    if params["as_json"]:
        print_json(as_json(replayed))
    else:
        from contextgraft.cli.evaluate.table import print_replay

        print_replay(replayed, show_prompt=params["show_prompt"])
    if not replayed.agrees:
        sys.exit(1)


def row_and_spec(config: "EvaluationConfig", file: Path, number: int) -> tuple["SampleRow", "EvalSpec"]:
    """A row of a table, and the question sets and measurements of a configuration that it may come from."""
    from contextgraft.evaluation.replay import read_row
    from contextgraft.evaluation.spec import build_spec, narrowed_config

    row = read_row(file, number)
    return row, build_spec(narrowed_config(config, row))
