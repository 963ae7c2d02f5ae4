"""`contextgraft verify`: check a graft or an adapter against its manifest and its inputs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.options import PATH, example, json_option, threads_option, threads_or_cores
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import bytes_bar, local_folders, weight_bytes
from contextgraft.errors import Refused

if TYPE_CHECKING:
    from contextgraft.adapter.verify.checks import Check


@click.command(epilog=example("contextgraft verify graft --target my-fine-tune --adapter adapters/r32"))
@click.argument("folder", type=PATH)
@click.option("--target", type=PATH, help="Of a graft: its fine-tune, any source of fetch.")
@click.option(
    "--adapter", "adapters", type=PATH, multiple=True,
    help="Of a graft: an adapter that was merged; repeatable, in the order of the merge.",
)  # fmt: skip
@click.option("--base", type=PATH, help="Of an adapter: its base, any source of fetch.")
@click.option("--donor", type=PATH, help="Of an adapter: its donor, any source of fetch.")
@threads_option("Tensors")
@click.option("--allow-refused", is_flag=True, help="Exit with 0 for a folder that only records a refusal.")
@json_option()
def command(
    *,
    folder: Path,
    target: Path | None,
    adapters: tuple[Path, ...],
    base: Path | None,
    donor: Path | None,
    threads: int | None,
    allow_refused: bool,
    as_json: bool,
) -> None:
    """Check that a graft or an adapter is what its manifest says.

    For a graft, pass --target and --adapter to compute every changed tensor again; without them, the folder
    is compared with its record. For an adapter, pass --base and --donor: every norm and error is computed
    again. The exit code is 1 if anything differs.
    """
    from contextgraft.checkpoint.model_folder import check_is_folder

    count = threads_or_cores(threads)
    given = list(filter(None, (target, *adapters, base, donor)))
    local = dict(zip(given, local_folders("verify", *given), strict=True))
    target, base, donor = (path and local[path] for path in (target, base, donor))
    adapters = tuple(local[path] for path in adapters)
    for path in local.values():
        check_is_folder(path, "no such folder", "the folder of a model or adapter")
    if (folder / "adapter_config.json").exists():
        if base is None or donor is None or target or adapters:
            raise click.UsageError("an adapter needs --base and --donor, and neither --target nor --adapter")
        checks = _of_adapter(folder, base, donor, count)
    elif base or donor:
        raise click.UsageError("--base and --donor are for adapters; a graft takes --target and --adapter")
    else:
        try:
            checks = _of_graft(folder, target, adapters, count)
        except Refused as error:
            if not allow_refused:
                raise
            echo(json.dumps({"holds": None, "refused": str(error)}) if as_json else str(error))
            return
    _show(folder, checks, as_json)


def _of_graft(folder: Path, target: Path | None, adapters: tuple[Path, ...], threads: int) -> "list[Check]":
    from contextgraft.adapter.verify.graft import verify
    from contextgraft.formats.sidecar import read_sidecar

    read_sidecar(folder, "graft")  # what is no graft is one line, without a plan before it
    with _progress(weight_bytes(folder) * (2 if target and adapters else 1), threads) as advance:
        return verify(folder, target=target, adapters=adapters, threads=threads, advance=advance)


def _of_adapter(folder: Path, base: Path, donor: Path, threads: int) -> "list[Check]":
    from contextgraft.adapter.verify.adapter import verify_adapter

    with _progress(weight_bytes(base, donor), threads) as advance:
        return verify_adapter(folder, base, donor, threads=threads, advance=advance)


@contextmanager
def _progress(total: int, threads: int) -> Iterator[Callable[[int], object]]:
    """Without weights there is an error instead, which shall be the only line."""
    if total:
        echo(f"verify: {format_bytes(total)} to read, with {threads} thread(s).", err=True)
    with bytes_bar("verify", total) as advance:
        yield advance


def _show(folder: Path, checks: "list[Check]", as_json: bool) -> None:
    from contextgraft.adapter.verify import checks as verify_checks

    holds = all(check.holds for check in checks)
    if as_json:
        print_json(verify_checks.as_json(checks))
    else:
        for check in checks:
            echo(f"{'ok' if check.holds else 'DIFFERS':<8} {check.name:<11} {check.detail}")
        echo(f"{folder}: {'verified' if holds else 'does not verify'}")
    if not holds:
        sys.exit(1)
