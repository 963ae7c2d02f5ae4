"""`contextgraft evaluate`: asks and measures models; one Parquet row a sample."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.evaluate_exam import check_suites, make_spec, suited_to
from contextgraft.cli.evaluate_options import Options, options
from contextgraft.cli.output import print_json
from contextgraft.errors import InputError, OutputError

if TYPE_CHECKING:
    from contextgraft.evaluation.backends.registry import BackendConfig

Models = list[tuple[str | None, Path]]


@click.command()
@click.argument("models", metavar="[LABEL=]MODEL...", nargs=-1, required=True)
@options
def command(**words: Any) -> None:
    """Ask models questions, measure them, and write one Parquet row a sample.

    needle: sentences hidden in a text, a grid of lengths and depths. skill: a fine-tune's own questions.
    perplexity: by position in a text. divergence: from the predictions of the first model.

    A run that was stopped goes on where it was; the same command again asks nothing twice.
    """
    chosen = Options(**words)
    models = [split_label(model) for model in chosen.models]
    check_models(models)
    if chosen.replay is not None:
        replay(chosen, models, chosen.replay)
        return
    check_suites(chosen)
    if chosen.plan:
        show_plan(chosen, models)
    else:
        run(chosen, models, check_out(chosen.out))


def run(chosen: Options, models: Models, out: Path) -> None:
    """Ask and measure, write the table, show its scores."""
    spec = make_spec(chosen)

    import torch

    from contextgraft.evaluation.progress import TerminalProgress
    from contextgraft.evaluation.run import evaluate_models
    from contextgraft.evaluation.summary import as_json, summarise

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    with TerminalProgress(len(models), sys.stderr) as progress:
        table = evaluate_models(
            models,
            spec,
            make_backend_config(chosen),
            out,
            progress,
            reference=chosen.reference,
            allow_refused=chosen.allow_refused,
        )
    scores = summarise(table)
    if chosen.as_json:
        print_json(as_json(scores))
    else:
        from contextgraft.cli.evaluate_table import print_scores

        print_scores(scores)


def show_plan(chosen: Options, models: Models) -> None:
    """Say what would be asked."""
    from contextgraft.evaluation.dry_run import as_json, dry_run

    plans = dry_run(models, make_spec(chosen), make_backend_config(chosen))
    if chosen.as_json:
        print_json(as_json(plans))
    else:
        from contextgraft.cli.evaluate_table import print_plans

        print_plans(plans)


def replay(chosen: Options, models: Models, place: str) -> None:
    """Ask or measure one sample again; exit code 1 if something else comes of it now."""
    from contextgraft.evaluation.replay import as_json, read_row, replay_sample

    if len(models) > 2:
        raise InputError(
            "a sample is of one model",
            expected="its folder, and that of the reference where it is a divergence",
            received=f"{len(models)} folders",
        )
    row = read_row(*split_place(place))
    suited = suited_to(chosen, row)
    reference = models[1][1] if len(models) > 1 else None
    found = replay_sample(row, models[0][1], make_spec(suited), make_backend_config(chosen), reference)
    if chosen.as_json:
        print_json(as_json(found))
    else:
        from contextgraft.cli.evaluate_table import print_replay

        print_replay(found, show_prompt=chosen.show_prompt)
    if not found.agrees:
        sys.exit(1)


def make_backend_config(chosen: Options) -> "BackendConfig":
    """How the models are run."""
    from contextgraft.evaluation.backends.registry import BackendConfig

    return BackendConfig(
        device=chosen.device,
        dtype=chosen.dtype,
        batch_size=chosen.batch_size,
        prefill_chunk=chosen.prefill_chunk,
        backend=chosen.backend,
        url=chosen.url,
        model_name=chosen.model_name,
    )


def split_label(model: str) -> tuple[str | None, Path]:
    """LABEL=DIR, or DIR alone; a folder whose own path holds "=" is one too."""
    label, equals, folder = model.partition("=")
    if equals and not Path(model).exists():
        return label, Path(folder)
    return None, Path(model)


def check_models(models: Models) -> None:
    """Refuse folders that are none, before anything slow is imported."""
    for label, folder in models:
        if label == "":
            raise InputError("a label is empty", path=folder, expected="LABEL=DIR")
        if not folder.is_dir():
            raise InputError("no such model folder", path=folder)


def check_out(out: Path | None) -> Path:
    """The output, if it can be one."""
    if out is None:
        raise InputError("no output is named", remedy="pass --out samples.parquet")
    if not out.absolute().parent.is_dir():
        raise OutputError("its folder does not exist", path=out, remedy=f"mkdir -p {out.parent}")
    if out.is_dir():
        raise OutputError("is a folder", path=out, expected="a Parquet file to write")
    return out


def split_place(place: str) -> tuple[Path, int]:
    """FILE.parquet:ROW as path and row, counted from 0; InputError if it is neither."""
    file, colon, number = place.rpartition(":")
    if not colon or not number.isdigit():
        raise InputError(
            "does not name a sample", path=place, expected="FILE.parquet:ROW, rows counted from 0"
        )
    return Path(file), int(number)
