"""The `contextgraft` command: finds each verb lazily, turns errors into one line and an exit code."""

import importlib
import sys
from pathlib import Path

import click

from contextgraft._version import __version__
from contextgraft.errors import ContextgraftError
from contextgraft.extras import missing_extra

VERBS = {
    "inspect": "architecture, RoPE, context, dtype, vocabulary, bytes; distance from a base",
    "plan": "what an evaluation costs, from config.json alone: memory, hours, devices",
    "rope": "theta for longer contexts, by the published rules",
    "fetch": "bring a model or data set into a folder: a folder, a GGUF file, demo:NAME, hf:OWNER/NAME",
    "train": "take a base to a longer context in progressive stages",
    "extract": "factorise donor minus base into LoRA adapters, every rank in one pass",
    "merge": "graft an adapter onto a fine-tune, RoPE repaired",
    "verify": "prove from the folders alone that a graft or an adapter is what it says",
    "align": "whether donor and fine-tune moved the base the same way, layer by layer",
    "compare": "tell two adapters apart: relative error and principal angles by module",
    "evaluate": "ask a model for needles and skills; one Parquet row a sample",
    "report": "one self-contained page from the samples",
    "publish": "send an adapter or a graft to the hub with its card",
}


class Verbs(click.Group):
    """Imports the module of a verb only when that verb runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load `contextgraft.cli.commands.<verb>` and take its `command`."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"contextgraft.cli.commands.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; with --refusal, an error about a model is put on record there instead.

        A verb whose extra is not installed raises InputError with the command that installs it.
        """
        folder = ctx.params["refusal"]
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = missing_extra(error, ctx.invoked_subcommand)
            raise missing or error from None
        except ContextgraftError as error:
            from contextgraft.formats.refusal import is_final, record_refusal

            if folder is None or not is_final(error):
                raise
            record_refusal(folder, str(ctx.invoked_subcommand), error)
            click.echo(f"contextgraft: refused, and put on record: {error}", err=True)
            return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="contextgraft")
@click.option(
    "--refusal",
    type=click.Path(path_type=Path),
    help="Output folder of the verb: if it refuses a model, the reason is put on record there and the exit "
    "code is 0, so that one bad model does not stop a batch.",
)
def cli(refusal: Path | None) -> None:  # read by Verbs.invoke
    """Graft the long context of one language model onto any fine-tune of the same base."""


def main() -> None:
    """Run the command line; a user's mistake exits 2 with one line, Ctrl-C exits 130."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        remedy = f"; see `{context.command_path} --help`" if context else ""
        click.echo(f"contextgraft: error: {' '.join(error.format_message().split())}{remedy}", err=True)
        sys.exit(2)
    except ContextgraftError as error:
        click.echo(f"contextgraft: error: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("contextgraft: interrupted; run the same command again to resume", err=True)
        sys.exit(130)
