"""The `contextgraft` command: loads the verb that runs, turns errors into one line and an exit code."""

import gc
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click
from typing_extensions import override

from contextgraft._version import __version__
from contextgraft.cli.interruption import Interruption
from contextgraft.cli.lazy_group import LazyGroup
from contextgraft.cli.options import REPLACE
from contextgraft.cli.output import echo
from contextgraft.cli.progress import loading_line
from contextgraft.cli.verbosity import Verbosity
from contextgraft.errors import ContextgraftError, file_system_error, file_system_remedy, missing_extra

VERBS = {
    "init": "write a study and its sheet for your base, donor and fine-tunes",
    "inspect": "show architecture, RoPE, context, vocabulary and size of a model, or what an adapter holds",
    "inspect-sheet": "check which fine-tunes of a sheet fit a base, from configs and headers alone",
    "plan": "estimate memory, hours and devices from a config.json, before anything is run",
    "rope": "compute the RoPE theta for longer contexts",
    "fetch": "copy a model or data set into a folder: from a folder, a GGUF file, demo:NAME or hf:OWNER/NAME",
    "cache": "list or remove what commands fetched from the hub or converted",
    "train": "train a base to a longer context in progressive stages",
    "extract": "factorise donor minus base into LoRA adapters, all ranks in one pass",
    "merge": "merge adapters into a fine-tune and apply the donor's RoPE and attention settings",
    "verify": "verify a graft or an adapter against the models it was made from",
    "align": "measure whether donor and fine-tune changed the base in the same direction, layer by layer",
    "compare": "compare two adapters: relative error and principal angles by module",
    "evaluate": "evaluate models on needles, skills, perplexity and divergence; one Parquet row per sample",
    "replay": "evaluate one recorded sample again and compare the results",
    "report": "write one self-contained HTML page from evaluated samples",
    "publish": "upload an adapter, a graft or a trained model to the Hugging Face hub with its model card",
}


class RefusalGroup(LazyGroup):
    """The verbs; with --refusal, an error about a model is recorded in that folder instead.

    A verb whose extra is not installed raises InputError with the command that installs it.
    """

    @override
    def invoke(self, ctx: click.Context) -> object:
        folder = ctx.params["refusal"]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # click would write an empty line, in every process of torchrun
        except ModuleNotFoundError as error:
            missing = missing_extra(error, ctx.invoked_subcommand)
            raise missing or error from None
        except ContextgraftError as error:
            from contextgraft.formats.refusal import is_final, record_refusal

            if folder is None or not is_final(error):
                raise
            replacing: click.Context | None = ctx.meta.get(REPLACE)
            replace = replacing is not None and _same_path(replacing.params.get("out"), folder)
            record_refusal(folder, str(ctx.invoked_subcommand), error, replace=replace)
            echo(f"contextgraft: refused and recorded: {error}", err=True)
            return None


def _same_path(first: Path | None, second: Path) -> bool:
    return first is not None and first.resolve() == second.resolve()


@click.group(
    cls=RefusalGroup,
    verbs=VERBS,
    package="contextgraft.cli.commands",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": "CONTEXTGRAFT",
    },
)
@click.version_option(__version__, prog_name="contextgraft", allow_from_autoenv=False)
@click.option(
    "--refusal",
    type=click.Path(path_type=Path),
    help="Output folder of the verb. If the verb refuses a model, the reason is recorded there and the exit "
    "code is 0, so that one unusable model does not stop a batch.",
)
def cli(refusal: Path | None) -> None:  # read by RefusalGroup.invoke
    """Graft the long context of one language model onto any fine-tune of the same base."""


def main() -> None:
    """Run the command line; a user's mistake exits 2 with one line, Ctrl-C exits 130."""
    # Imports make a million objects that live to the end: looking for garbage among them costs a tenth of
    # the start of PyTorch and transformers.
    gc.set_threshold(50_000)
    interruption = Interruption()
    interruption.watch()
    try:
        _run()
    except (KeyboardInterrupt, click.Abort):
        interruption.exit()
    except BaseException:
        if interruption.received:  # a library made another error of it
            interruption.exit()
        raise
    interruption.end()


def _run() -> None:
    verbosity = Verbosity()
    try:
        with loading_line(verbosity):
            cli.main(standalone_mode=False, obj=verbosity)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split()).removesuffix(".")
        see = " See" if message.endswith("?") else "; see"
        remedy = f"{see} `{context.command_path} --help`" if context else ""
        echo(f"contextgraft: error: {message}{remedy}", err=True)
        sys.exit(2)
    except ContextgraftError as error:
        if verbosity.verbose:
            traceback.print_exc()
        echo(f"contextgraft: error: {error}", err=True)
        sys.exit(2)
    except MemoryError:
        echo(
            "contextgraft: error: this machine, or the limit of this process, has too little memory", err=True
        )
        sys.exit(2)
    except Exception as error:
        cause = file_system_error(error)
        if cause is None:
            raise
        if cause.filename is None:
            # what stdout still buffers cannot be written: the interpreter shall not try again at its end
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        echo(f"contextgraft: error: {_file_system_line(cause)}", err=True)
        sys.exit(2)


def _file_system_line(error: OSError) -> str:
    path = "standard output or a temporary file" if error.filename is None else error.filename
    remedy = file_system_remedy(error, "free disk space or name another path")
    return f"{path}: cannot be read or written; received {error.strerror or error}; {remedy}"
