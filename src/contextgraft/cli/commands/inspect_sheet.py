"""`contextgraft inspect-sheet`: which fine-tunes of a sheet fit a base, before weights are fetched."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.option_types import COUNT
from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import print_json, print_lines, print_table
from contextgraft.cli.progress import message_writer

if TYPE_CHECKING:
    from contextgraft.planning.target_compatibility import TargetCheck

NOTE = (
    "Fits: architecture and shapes are those of the base, so the model may descend from it and can be "
    "grafted. Only weights prove descent: fetch the model and run `contextgraft inspect MODEL --base BASE`."
)


@click.command(epilog=example("contextgraft inspect-sheet my-study.tsv --base hf:OWNER/BASE"))
@click.argument("sheet", type=PATH)
@click.option("--base", required=True, help="Model that the targets should fit; any source of fetch.")
@click.option(
    "--headers", type=PATH, help="Keep fetched headers in this folder; a second run fetches the rest."
)
@click.option("--threads", type=COUNT, default=4, show_default=True, help="Targets in parallel.")
@click.option("--strict", is_flag=True, help="Exit with code 1 unless every target fits.")
@json_option()
def command(
    *, sheet: Path, base: str, headers: Path | None, threads: int, strict: bool, as_json: bool
) -> None:
    """Check which fine-tunes of SHEET (tab-separated: name, source) fit the base.

    Shapes, vocabulary, RoPE and quantisation are compared by configs, tokenizers and headers; weights are not
    fetched. A target that cannot be read is listed with the reason.
    """
    from contextgraft.planning.target_compatibility import USABLE, check_targets, to_json
    from contextgraft.sources.hub.client import DownloadProgress, Hub

    hub = Hub(progress=DownloadProgress(log=message_writer("inspect-sheet")))
    checks = check_targets(sheet, base, headers, hub, threads)
    if as_json:
        print_json(to_json(checks, base), ensure_ascii=False)
    else:
        _show(checks, base)
    if strict and any(check.verdict not in USABLE for check in checks):
        sys.exit(1)


def _show(checks: "Sequence[TargetCheck]", base: str) -> None:
    """Print a table with one row per target, then the reasons and the evidence for each verdict."""
    words = ("line", "target", "verdict", "RoPE", "vocabulary", "quantised")
    print_table(words, (), [_cells(check) for check in checks])
    print_lines(["", *map(_explained, checks), "", *_summary(checks, base)])


def _cells(check: "TargetCheck") -> list[str]:
    from contextgraft.planning.target_compatibility import describe_rope, describe_vocabulary

    match = check.compatibility
    described = (
        [describe_rope(match.rope), describe_vocabulary(match.tokens), match.quantised or "no"]
        if match
        else ["-", "-", "-"]
    )
    return [str(check.line), check.name or "?", check.verdict, *described]


def _explained(check: "TargetCheck") -> str:
    from contextgraft.planning.target_compatibility import evidence

    facts = [*check.reasons, *(evidence(check.compatibility) if check.compatibility else ())]
    return f"{check.name or check.source or 'line'} ({check.line}): {'; '.join(facts)}"


def _summary(checks: "Sequence[TargetCheck]", base: str) -> Iterator[str]:
    from contextgraft.planning.target_compatibility import DIFFERS, FITS, REFUSED, USABLE

    verdicts = [check.verdict for check in checks]
    good = sum(verdict in USABLE for verdict in verdicts)
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (*USABLE, DIFFERS, REFUSED))
    yield f"{good} of {len(checks)} can be grafted from {base}: {counts}"
    if FITS in verdicts:
        yield NOTE
