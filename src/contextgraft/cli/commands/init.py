"""`contextgraft init`: write a study and its sheet of fine-tunes for given models."""

import re
import shlex
import sys
from pathlib import Path

import click

from contextgraft.cli.option_types import COUNT, NumberList
from contextgraft.cli.options import PATH, example, json_option, replace_option
from contextgraft.cli.output import echo, print_json
from contextgraft.cli.progress import message_writer

QUESTIONS = {
    "base": "Base, the common ancestor (a folder, hf:OWNER/NAME, ...)",
    "donor": "Donor, the long-context model, or the recipe (.yaml) that trains it",
    "fine_tunes": "Fine-tunes that get the long context, separated by spaces (NAME=SOURCE or SOURCE)",
}
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,229}")


@click.command(
    epilog=example("contextgraft init --base hf:OWNER/BASE --donor hf:OWNER/DONOR --fine-tune my-fine-tune")
)
@click.option("--base", help="The common ancestor: any source of fetch.")
@click.option("--donor", help="The long-context model: any source of fetch, or a training recipe (YAML).")
@click.option(
    "--fine-tune",
    "fine_tunes",
    metavar="[NAME=]SOURCE",
    multiple=True,
    help="A fine-tune of the base; repeatable. Without a name, the end of SOURCE is its name.",
)
@click.option("--name", default="my-study", show_default=True, help="Name of the study and of its files.")
@click.option(
    "--ranks",
    type=NumberList(COUNT, "INTEGERS"),
    help="Ranks, separated by commas. [default: 8,32,128, as the sizes of the base allow]",
)
@click.option(
    "--lengths",
    type=NumberList(COUNT, "INTEGERS"),
    help="Lengths of prompts in tokens, separated by commas. [default: from base's context to donor's]",
)
@click.option(
    "--format",
    "needle_format",
    type=PATH,
    help="Format of the needles (YAML), for a base whose tokenizer lacks words of the shipped one. "
    "[default: a shipped one]",
)
@click.option(
    "--out",
    type=PATH,
    default=".",
    show_default=True,
    help="Folder of the files. Run init where Snakemake will run: paths are relative to the working folder.",
)
@replace_option
@json_option("Print the paths of the files as JSON.")
def command(
    *,
    base: str | None,
    donor: str | None,
    fine_tunes: tuple[str, ...],
    name: str,
    ranks: tuple[int, ...] | None,
    lengths: tuple[int, ...] | None,
    needle_format: Path | None,
    out: Path,
    replace: bool,
    as_json: bool,
) -> None:
    """Write a commented study and its sheet for your base, donor and fine-tunes.

    The configs of base and donor are read, from a folder or from the hub, and fill in the lengths of prompts,
    the chat template, ranks that servers accept, and the donor's theta. The base's tokenizer must have the
    words of the needles. On a terminal, what is not given is asked for.
    `snakemake --configfile NAME.yaml` runs the study.
    """
    from contextgraft.planning.new_study.write import NewStudy, fine_tune_names, write_study
    from contextgraft.sources.hub.client import DownloadProgress, Hub

    if not STUDY_NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is not a name; expected letters, digits, and . _ - after the first",
            param_hint="--name",
        )
    answers = _answers(base, donor, fine_tunes)
    named = fine_tune_names(fine_tunes or answers["fine_tunes"].split())
    new = NewStudy(name, answers["base"], answers["donor"], named, ranks or (), lengths or (), needle_format)
    hub = Hub(progress=DownloadProgress(log=message_writer("init")))
    files = write_study(new, out, hub, replace=replace)
    if as_json:
        print_json([str(path) for path in files])
        return
    for path in files:
        echo(path)
    study, here = shlex.quote(str(files[0])), Path("Snakefile").exists()
    where = "" if here else " (paths are relative to it; CLONE is the folder of contextgraft's repository)"
    echo(f"\nRead them; then, in this folder{where}:")
    echo(f"  contextgraft plan study {study}")
    snakefile = "" if here else " --snakefile CLONE/Snakefile"
    echo(f"  snakemake{snakefile} --cores all --logger=contextgraft --configfile {study}")


def _answers(base: str | None, donor: str | None, fine_tunes: tuple[str, ...]) -> dict[str, str]:
    """Base and donor, and fine-tunes if none are given; what was not given is asked for on a terminal."""
    given = {"base": base, "donor": donor, "fine_tunes": " ".join(fine_tunes)}
    missing = [key for key, value in given.items() if not value]
    if missing and not sys.stdin.isatty():
        options = ", ".join("--" + key.replace("_", "-").removesuffix("s") for key in missing)
        raise click.UsageError(f"Missing options: {options}")
    answers = {key: click.prompt(QUESTIONS[key], err=True) for key in missing}
    return {key: str(value or answers[key]) for key, value in given.items()}
