"""Options that several commands have, with the same words and the same checks."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from typing_extensions import override

from contextgraft.cli.option_types import COUNT, Choice
from contextgraft.cli.output import echo
from contextgraft.errors import ContextgraftError

if TYPE_CHECKING:
    from contextgraft.adapter.extract.rank_spec import TensorSelection

F = TypeVar("F", bound=Callable[..., Any])

PARQUET = ("", ".parquet", ".pq")
DEVICES = ("cpu", "cuda")
REPLACE, NOT_GIVEN = "contextgraft.replace", "contextgraft.not_given"  # keys of the context's meta
TO_REPLACE, TO_KEEP = "--force to replace it", "--skip-existing to keep it"
EMBEDDINGS = {"both": ("input", "output"), "input": ("input",), "output": ("output",)}


class NamedPath(click.Path):
    """A path. An empty word, such as of a shell variable that is not set, is none: not the working folder."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a path; received ''", param, ctx)
        return super().convert(value, param, ctx)


class ParquetPath(NamedPath):
    """A Parquet file to write. Programs tell its format by its name; a file that exists is checked later."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Path = super().convert(value, param, ctx)
        if path.suffix not in PARQUET and not path.exists():
            self.fail(f"expected a name that ends in .parquet; received {value!r}", param, ctx)
        return path


PATH = NamedPath(path_type=Path)
PARQUET_PATH = ParquetPath(path_type=Path)


class Pattern(click.ParamType[str]):
    """A regular expression that Python's `re` can compile."""

    name = "REGEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The expression, unchanged."""
        try:
            re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is not a regular expression: {error}", param, ctx)
        return str(value)


class SuiteChoice(Choice):
    """Names of suites. The configuration is imported for a value or the help only: pydantic takes 0.3 s."""

    def __init__(self, *, without: str | None = None) -> None:
        self.case_sensitive = True
        self.without = without

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]  # a plain attribute in click
        """Names of suites, in the order of the configuration."""
        from contextgraft.config.evaluation import SECTIONS

        return tuple(name for name in SECTIONS if name != self.without)


def example(*lines: str) -> str:
    """The end of a command's help: commands as they may be typed, which are not wrapped."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in lines)))


def json_option(help: str = "Print JSON.") -> Callable[[F], F]:  # noqa: A002 - click's own word
    """--json, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def threads_option(work: str) -> Callable[[F], F]:
    """--threads, passed as None where it is not given; `work` names what is computed in parallel."""
    return click.option("--threads", type=COUNT, help=f"{work} in parallel; default: one per CPU core.")


def threads_or_cores(threads: int | None) -> int:
    """The value of --threads, or the number of CPU cores."""
    return threads or os.cpu_count() or 1


def device_option(command: F) -> F:
    """--device; the command calls `check_device` once its other options are valid."""
    return click.option(
        "--device", default="cpu", show_default=True, help="Device for the computation: cpu, cuda, cuda:1."
    )(command)


def check_device(device: str) -> str:
    """The device, if this machine has it; click.BadParameter otherwise. Imports torch, except for the CPU."""
    if device.partition(":")[0] not in DEVICES:
        raise click.BadParameter(
            f"{device!r} cannot be used; expected {' or '.join(DEVICES)}", param_hint="--device"
        )
    if device == "cpu":
        return device
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"{device!r} cannot be used: {reason}", param_hint="--device") from None
    return device


def replace_option(command: F) -> F:
    """--force; the context is kept in its `meta` then, for the refusal that may replace --out instead."""

    def record(context: click.Context, parameter: click.Parameter, value: bool) -> bool:  # noqa: ARG001
        context.meta[REPLACE] = context if value else None
        return _offered(context, TO_REPLACE, given=value)

    return click.option(
        *("--replace", "--force"), is_flag=True, callback=record, help="Replace an existing output."
    )(command)


def skip_existing_option(command: F) -> F:
    """--skip-existing; the command calls `skipped` with its outputs before it opens its inputs."""

    def record(context: click.Context, parameter: click.Parameter, value: bool) -> bool:  # noqa: ARG001
        return _offered(context, TO_KEEP, given=value)

    return click.option(
        "--skip-existing",
        is_flag=True,
        callback=record,
        help="Keep an existing output, whatever it is made of; exit code 0.",
    )(command)


def _offered(context: click.Context, option: str, *, given: bool) -> bool:
    """Keep what the option does, for errors, if it was not given; returns `given`."""
    if not given:
        context.meta.setdefault(NOT_GIVEN, []).append(option)
    return given


def name_options(error: ContextgraftError, context: click.Context) -> None:
    """Name in an error about an existing output those options for it that the command has and was not given.

    Not --force for a file, an input or a folder of another program, which it does not replace.
    """
    from contextgraft.checkpoint.replaceable import OutputExists

    if isinstance(error, OutputExists):
        options = context.meta.get(NOT_GIVEN, ())
        error.offer([option for option in options if error.replaceable or option != TO_REPLACE])


def skipped(out: Path, *others: Path, skip_existing: bool) -> bool:
    """Whether all outputs exist and --skip-existing was given; prints that the first is kept."""
    if not (skip_existing and all(path.exists() for path in (out, *others))):
        return False
    echo(f"contextgraft: {out} exists already; skipped", err=True)
    return True


def refuse_unread(read_by: Mapping[str, Collection[str]], suites: Collection[str]) -> None:
    """Raise UsageError for given options that none of the suites reads; no suites read an option of all.

    `read_by` has the suites of each given option.
    """
    unread = {option: of for option, of in read_by.items() if of and not set(of) & set(suites)}
    if suites and unread:
        of = dict.fromkeys(suite for names in unread.values() for suite in names)
        raise click.UsageError(
            f"{' and '.join(unread)} would have no effect; expected with --suite {' or '.join(of)}, received "
            f"{' and '.join(f'--suite {suite}' for suite in suites)}; add the suite or leave the option out"
        )


def combine(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options; help lists them in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def pair_options(command: F) -> F:
    """--base and --donor, both required."""
    return combine(
        click.option(
            "--base", type=PATH, required=True, help="The common base model: a folder or a source of fetch."
        ),
        click.option(
            "--donor", type=PATH, required=True, help="The long-context model: any source of fetch."
        ),
    )(command)


def tensor_options(verb: str) -> Callable[[F], F]:
    """--embeddings, --include and --exclude: which tensors are used; `verb` is Extract or Compare."""
    return combine(
        click.option(
            "--embeddings",
            type=Choice(list(EMBEDDINGS)),
            is_flag=False,
            flag_value="both",
            help=f"{verb} embed_tokens (input), lm_head (output) or both (no value), aligned by token.",
        ),
        click.option(
            "--include", type=Pattern(), default="", help=f"{verb} only tensors whose name matches."
        ),
        click.option("--exclude", type=Pattern(), help="Leave out tensors whose name matches."),
    )


def tensor_selection(embeddings: str | None, include: str, exclude: str | None) -> "TensorSelection":
    """The values of `tensor_options` as the library takes them."""
    from contextgraft.adapter.extract.rank_spec import TensorSelection
    from contextgraft.formats.tensor_names import TensorRole

    roles = EMBEDDINGS[embeddings] if embeddings else ()
    return TensorSelection(include, exclude, tuple(TensorRole(role) for role in roles))
