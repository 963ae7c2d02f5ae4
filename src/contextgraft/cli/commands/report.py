"""`contextgraft report`: a self-contained page, charts, tables and model cards from samples."""

from pathlib import Path

import click

from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import echo, print_json
from contextgraft.cli.progress import count_bar, message_writer


@click.command(epilog=example("contextgraft report tune.parquet --adapter adapters --out report"))
@click.argument("results", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Output folder. An older report in it is replaced; a folder with other files is refused.",
)
@click.option(
    "--adapter",
    "adapters",
    type=PATH,
    multiple=True,
    help="Folder that contains adapters (or is one): adds energy by rank and a card for each. Repeatable.",
)
@click.option(
    "--graft",
    "grafts",
    type=PATH,
    multiple=True,
    help="Folder that contains grafts (or is one): adds survival of deltas and a card for each. Repeatable.",
)
@click.option(
    "--alignment",
    "alignments",
    type=PATH,
    multiple=True,
    help="Parquet file that `contextgraft align` wrote: adds cosines by layer. Repeatable.",
)
@click.option(
    "--lm-eval",
    type=PATH,
    multiple=True,
    help="results*.json that lm-evaluation-harness wrote, or a folder of them: adds a table. Repeatable.",
)
@click.option(
    "--lm-eval-pair",
    "lm_eval_pairs",
    type=(PATH, PATH),
    multiple=True,
    metavar="FINE_TUNE GRAFT",
    help="samples_*.jsonl that lm-evaluation-harness wrote with --log_samples, of a fine-tune and of its "
    "graft, or the folders of both runs: adds paired differences by document. Repeatable.",
)
@click.option(
    "--title",
    default="Long context and skill of each fine-tune",
    show_default=True,
    help="Title of the page.",
)
@click.option("--note", help="A sentence below the title, for example what the models are.")
@json_option("Print summary.json to stdout instead of the verdicts.")
def command(
    *,
    results: tuple[Path, ...],
    out: Path,
    adapters: tuple[Path, ...],
    grafts: tuple[Path, ...],
    alignments: tuple[Path, ...],
    lm_eval: tuple[Path, ...],
    lm_eval_pairs: tuple[tuple[Path, Path], ...],
    title: str,
    note: str | None,
    as_json: bool,
) -> None:
    """Make a report from RESULTS, the samples of `contextgraft evaluate`: Parquet files or folders of them.

    Writes index.html, summary.json, charts, plots for DVC and model cards.
    """
    from contextgraft.formats.find_samples import find_sample_files

    find_sample_files(results)  # its errors need neither pyarrow nor duckdb
    from contextgraft.adapter.analysis.card import usages_of
    from contextgraft.checkpoint.replaceable import check_apart
    from contextgraft.formats.adapter_record import read_adapter_records
    from contextgraft.report.build import STEPS, build
    from contextgraft.report.folder import check_replaceable, write_report

    check_apart(out, [*adapters, *grafts])
    check_replaceable(out, [*results, *alignments])
    usages = usages_of(read_adapter_records(adapters))
    with count_bar("report", STEPS, "steps") as advance:
        report = build(
            results,
            adapters,
            title,
            note,
            grafts=grafts,
            alignments=alignments,
            usages=usages,
            lm_eval=lm_eval,
            lm_eval_pairs=lm_eval_pairs,
            log=message_writer("report"),
            advance=advance,
        )
    write_report(report, out)
    count = len(report.texts) + len(report.pictures) + len(report.copies)
    echo(f"report: {count} files in {out}", err=True)
    if as_json:
        print_json(report.summary, ensure_ascii=False)
        return
    echo("\n".join(report.lines))
