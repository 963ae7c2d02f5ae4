"""`contextgraft inspect`: what a model, an adapter or the targets of a sheet are, and how far from a base."""

import json
from pathlib import Path
from typing import Any

import click

from contextgraft.cli.progress import message_writer


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--base", help="Compare with this model, tensor kind by kind; with --sheet any source.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Instead of MODEL: every target of a sheet, by headers."
)
@click.option(
    "--headers", type=click.Path(path_type=Path),
    help="With --sheet: keep what was fetched here; a second run asks only for the rest.",
)  # fmt: skip
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="With --sheet: targets at once.",
)
@click.option("--strict", is_flag=True, help="With --sheet: exit 1 unless every target fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    model: Path | None,
    base: str | None,
    sheet: Path | None,
    headers: Path | None,
    threads: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Show architecture, RoPE, context, dtype, vocabulary, parameters and bytes of a model folder.

    With --base also the relative distance from it: of each kind of tensor, over the rows that both have.
    Of an adapter's folder: modules, ranks, origin, and whether vLLM would serve it.

    With --sheet and --base: which targets fit the base, and what differs in shape, vocabulary, RoPE and
    quantisation, from configs and headers alone. A target that cannot be read is listed with the reason.
    """
    if (model is None) == (sheet is None):
        raise click.UsageError("name either a MODEL or a --sheet")
    if sheet is not None:
        _sheet(sheet, base, headers, threads, strict=strict, as_json=as_json)
        return
    if headers is not None or strict:
        raise click.UsageError("--headers and --strict go with --sheet")
    assert model is not None
    _model(model, None if base is None else Path(base), as_json)


def _sheet(
    path: Path, base: str | None, place: Path | None, threads: int, *, strict: bool, as_json: bool
) -> None:
    from contextgraft.planning import target_compatibility
    from contextgraft.sources.hub.client import Hub, Watch

    if base is None:
        raise click.UsageError("--sheet needs the --base that its targets should fit")
    rows = target_compatibility.check_targets(
        path, base, place, Hub(watch=Watch(say=message_writer("inspect"))), threads
    )
    if as_json:
        click.echo(
            json.dumps(target_compatibility.to_json(rows, base), indent=2, sort_keys=True, ensure_ascii=False)
        )
    else:
        from contextgraft.cli.inspect_table import show

        show(rows, base)
    if strict and any(row.verdict not in target_compatibility.GOOD for row in rows):
        raise SystemExit(1)


def _model(model: Path, base: Path | None, as_json: bool) -> None:
    if (model / "adapter_config.json").exists():
        _adapter(model, base, as_json)
        return
    from contextgraft.adapter.analysis import model_summary
    from contextgraft.adapter.analysis.distance import distance
    from contextgraft.checkpoint import vocabulary
    from contextgraft.checkpoint.model_folder import open_model

    folder = open_model(model)
    info = model_summary.summary(folder)
    lines = model_summary.summary_lines(info)
    if base is not None:
        ancestor = open_model(base)
        words = vocabulary.read_vocabulary(ancestor), vocabulary.read_vocabulary(folder)
        tokens = (
            vocabulary.compare(words[0], words[1]) if words[0] is not None and words[1] is not None else None
        )
        info["base"] = {"path": str(base), **model_summary.difference(distance(ancestor, folder), tokens)}
        lines += ["", f"distance from {base}", *model_summary.difference_lines(info["base"])]
    click.echo(
        json.dumps(info, indent=2, sort_keys=True, ensure_ascii=False) if as_json else "\n".join(lines)
    )


def _adapter(path: Path, base: Path | None, as_json: bool) -> None:
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.adapter.lora.vllm import describe

    if base is not None:
        raise click.UsageError("--base is for models; two adapters are told apart by compare")
    facts = describe(open_adapter(path))
    click.echo(json.dumps(facts, indent=2, sort_keys=True) if as_json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    vllm = facts["vllm"]
    origin = [facts[side]["name"] or "unknown" for side in ("base", "donor")]
    energy = "" if facts["energy"] is None else f", energy {facts['energy']:.4f}"
    rope = facts["rope"]
    reach = f"theta {rope['theta']:g}, {rope['max_positions']:,} positions" if rope else "not on record"
    lines = [
        f"adapter       {facts['path']}",
        f"modules       {facts['modules']} of rank {', '.join(map(str, facts['ranks']))}{energy}",
        f"besides       {facts['dense']} dense deltas, {len(facts['replaced'])} replaced tensors",
        f"from          {origin[1]}, on the base {origin[0]}",
        f"rope          {reach}",
        f"size          {facts['bytes']:,} bytes",
        f"vLLM          {'would take it' if not vllm['problems'] else 'would refuse it or get it wrong'}",
    ]
    lines += [f"  problem     {each}" for each in vllm["problems"]]
    lines += [f"  note        {each}" for each in vllm["notes"]]
    return lines + [f"  option      {each}" for each in vllm["options"]]
