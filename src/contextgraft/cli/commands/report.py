"""`contextgraft report`: one self-contained page from the samples."""

from pathlib import Path

import click

from contextgraft.cli.output import print_json


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the report; an older report there is replaced.",
)
@click.option(
    "--adapter",
    "adapters",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of an adapter, or one that holds adapters: for energy by rank; repeatable.",
)
@click.option(
    "--graft",
    "grafts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of a graft, or one that holds grafts: for survival of the delta, and cards; repeatable.",
)
@click.option(
    "--alignment",
    "alignments",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Parquet file that `contextgraft align` wrote; repeatable.",
)
@click.option(
    "--title",
    default="Did the context come, did the skill stay?",
    show_default=True,
    help="Title of the page.",
)
@click.option("--note", help="A sentence shown on top, such as what the models are.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of the verdicts.")
def command(
    *,
    results: tuple[Path, ...],
    out: Path,
    adapters: tuple[Path, ...],
    grafts: tuple[Path, ...],
    alignments: tuple[Path, ...],
    title: str,
    note: str | None,
    as_json: bool,
) -> None:
    """One page, summary.json, charts and model cards from RESULTS: files of samples, or folders of them."""
    from contextgraft.report.build import build
    from contextgraft.report.folder import check_replaceable, write_report

    check_replaceable(out)
    report = build(results, adapters, title, note, grafts=grafts, alignments=alignments)
    write_report(report, out)
    click.echo(f"report: {len(report.texts) + len(report.pictures)} files in {out}", err=True)
    if as_json:
        print_json(report.summary, ensure_ascii=False)
        return
    click.echo("\n".join(report.lines))
