"""`contextgraft evaluate`: asks models for needles and skills; one Parquet row a sample."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.errors import InputError, OutputError

if TYPE_CHECKING:
    from contextgraft.evaluation.summary import Score


class Numbers(click.ParamType[tuple[float, ...]]):
    """Different numbers of one range, separated by commas."""

    def __init__(self, number: click.ParamType[Any], name: str) -> None:
        self.number = number
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers in the order given."""
        if isinstance(value, tuple):
            return value
        numbers = tuple(self.number.convert(part.strip(), param, ctx) for part in value.split(","))
        if len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} repeats a number", param, ctx)
        return numbers


@click.command()
@click.argument("models", metavar="[LABEL=]MODEL...", nargs=-1, required=True)
@click.option(
    "--suite",
    "suites",
    type=click.Choice(["needle", "skill"]),
    multiple=True,
    required=True,
    help="What to ask: needle, a grid of lengths and depths; skill, the lines of --skill. Repeatable.",
)
@click.option(
    "--format",
    "format_path",
    type=click.Path(path_type=Path),
    help="Needle format (YAML); a shipped one if not given.",
)
@click.option(
    "--skill",
    "skill_paths",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Skill (JSONL); repeatable.",
)
@click.option(
    "--lengths", type=Numbers(click.IntRange(min=1), "INT,..."), help="Prompt and answer together, in tokens."
)
@click.option(
    "--depths",
    type=Numbers(click.FloatRange(0, 100), "PERCENT,..."),
    default="0,25,50,75,100",
    show_default=True,
    help="Place of the needle in the text.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=20, show_default=True, help="Prompts a length and depth."
)
@click.option(
    "--skill-samples",
    type=click.IntRange(min=1),
    help="Lines of each skill, drawn by seed; all if not given.",
)
@click.option(
    "--distractors",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Other needles in each text.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the prompts.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most prompts at once; fewer where they are long.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; all if not given.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    default="float32",
    show_default=True,
    help="What to compute in; auto: as the model is stored.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(  # noqa: PLR0917 - one parameter an option
    models: tuple[str, ...],
    suites: tuple[str, ...],
    format_path: Path | None,
    skill_paths: tuple[Path, ...],
    lengths: tuple[int, ...] | None,
    depths: tuple[float, ...],
    samples: int,
    skill_samples: int | None,
    distractors: int,
    seed: int,
    batch_size: int,
    threads: int | None,
    device: str,
    dtype: str,
    out: Path,
    as_json: bool,
) -> None:
    """Ask models for needles and skills and write one Parquet row a sample.

    A run that was stopped goes on where it was; the same command again asks nothing twice.
    """
    folders = [split_label(model) for model in models]
    check_paths(folders, out)
    if "needle" in suites and lengths is None:
        raise InputError("--suite needle needs lengths", remedy="pass --lengths, for example 128,1024")
    if "skill" in suites and not skill_paths:
        raise InputError("--suite skill needs a skill", remedy="pass --skill FILE.jsonl")

    from contextgraft.evaluation import suites as exams

    grid = None
    if "needle" in suites and lengths is not None:
        grid = exams.read_grid(
            format_path, lengths=lengths, depths=depths, samples=samples, distractors=distractors
        )
    skills = [exams.read_skill(path, skill_samples) for path in skill_paths] if "skill" in suites else []
    exam = exams.Exam(grid, tuple(skills), seed)

    import torch

    from contextgraft.evaluation.engine import Engine
    from contextgraft.evaluation.progress import Terminal
    from contextgraft.evaluation.run import evaluate_models
    from contextgraft.evaluation.summary import summarise

    if threads:
        torch.set_num_threads(threads)
    with Terminal(len(folders), sys.stderr) as terminal:
        table = evaluate_models(folders, exam, Engine(device, dtype, batch_size), out, terminal)
    show(summarise(table), as_json)


def split_label(model: str) -> tuple[str | None, Path]:
    """LABEL=DIR, or DIR alone; a folder whose own path holds "=" is one too."""
    label, equals, folder = model.partition("=")
    if equals and not Path(model).exists():
        return label, Path(folder)
    return None, Path(model)


def check_paths(folders: list[tuple[str | None, Path]], out: Path) -> None:
    """Refuse what cannot work before anything slow is imported."""
    for label, folder in folders:
        if label == "":
            raise InputError("a label is empty", path=folder, expected="LABEL=DIR")
        if not folder.is_dir():
            raise InputError("no such model folder", path=folder)
    if not out.absolute().parent.is_dir():
        raise OutputError("its folder does not exist", path=out, remedy=f"mkdir -p {out.parent}")
    if out.is_dir():
        raise OutputError("is a folder", path=out, expected="a Parquet file to write")


def show(scores: list["Score"], as_json: bool) -> None:
    """Print scores as a table for people or as JSON."""
    if as_json:
        import json

        from contextgraft.evaluation.summary import as_json as plain

        click.echo(json.dumps(plain(scores), indent=2, sort_keys=True))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "suite", "task", box=None)
    for name in ("length", "right", "n", "score", "95 % interval", "not asked"):
        table.add_column(name, justify="right")
    for score in scores:
        table.add_row(*cells(score))
    width = None if sys.stdout.isatty() else 160  # a log has no width; do not fold lines there
    Console(width=width).print(table)


def cells(score: "Score") -> list[str]:
    """One row of the table: shares in percent, an interval only where something was asked."""
    share, interval = "-", "-"
    if score.share is not None:
        share = f"{100 * score.share:.1f}"
        interval = f"{100 * score.low:.1f} - {100 * score.high:.1f}"
    length, missing = str(score.length or ""), str(score.missing or "")
    counts = [str(score.right), str(score.n)]
    return [score.model, score.suite, score.task, length, *counts, share, interval, missing]
