"""`contextgraft inspect`: what a model or an adapter is, and how far a model is from its base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.options import COUNT, PATH, json_option
from contextgraft.cli.output import print_json, print_lines

if TYPE_CHECKING:
    from contextgraft.checkpoint.model_folder import ModelFolder

OF_A_SHEET = ("headers", "threads", "strict")  # before `inspect-sheet` was a verb, they stood here


@click.command()
@click.argument("model", metavar="MODEL_OR_ADAPTER", type=PATH, required=False)
@click.option("--base", help="Also print the relative distance from this model, by kind of tensor.")
@click.option("--sheet", type=PATH, hidden=True)
@click.option("--headers", type=PATH, hidden=True)
@click.option("--threads", type=COUNT, default=4, hidden=True)
@click.option("--strict", is_flag=True, hidden=True)
@json_option()
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    model: Path | None,
    base: str | None,
    sheet: Path | None,
    as_json: bool,
    **of_a_sheet: Any,
) -> None:
    """Show what a model folder or an adapter folder holds.

    Of a model: architecture, RoPE, context, dtype, vocabulary, parameters and bytes, from its config and
    headers alone. With --base, weights are read, and for each kind of tensor the relative distance from the
    base is shown, over the rows that both models have.

    Of an adapter: modules, ranks, origin, and whether vLLM can serve it.
    """
    if sheet is not None:
        from contextgraft.cli.commands import inspect_sheet

        if model is not None or base is None:
            raise click.UsageError("--sheet needs a --base and no MODEL; use inspect-sheet SHEET --base BASE")
        context.invoke(inspect_sheet.command, sheet=sheet, base=base, as_json=as_json, **of_a_sheet)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL_OR_ADAPTER'")
    for name in OF_A_SHEET:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is an option of inspect-sheet")
    if not (model / "adapter_config.json").exists():
        _show_model(model, None if base is None else Path(base), as_json)
    elif base is None:
        _show_adapter(model, as_json)
    else:
        raise click.UsageError("--base is for models; to compare two adapters use compare")


def _show_model(path: Path, base: Path | None, as_json: bool) -> None:
    from contextgraft.adapter.analysis import model_summary
    from contextgraft.checkpoint.model_folder import open_model

    folder = open_model(path)
    info = model_summary.summary(folder)
    lines = model_summary.summary_lines(info)
    if base is not None:
        info["base"] = {"path": str(base), **_difference(open_model(base), folder)}
        lines += ["", f"distance from {base}", *model_summary.difference_lines(info["base"])]
    _print(info, lines, as_json, ensure_ascii=False)


def _difference(base: "ModelFolder", model: "ModelFolder") -> dict[str, Any]:
    from contextgraft.adapter.analysis.distance import model_distance
    from contextgraft.adapter.analysis.model_summary import difference
    from contextgraft.checkpoint import vocabulary
    from contextgraft.checkpoint.full_precision import check_full_precision

    for folder in (base, model):
        check_full_precision(folder, "the distance of two models")
    base_tokens, model_tokens = vocabulary.read_vocabulary(base), vocabulary.read_vocabulary(model)
    if base_tokens is None or model_tokens is None:
        return difference(model_distance(base, model), None)
    return difference(model_distance(base, model), vocabulary.compare(base_tokens, model_tokens))


def _show_adapter(path: Path, as_json: bool) -> None:
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.adapter.lora.vllm import describe

    facts = describe(open_adapter(path))
    _print(facts, _adapter_lines(facts), as_json)


def _print(facts: dict[str, Any], lines: Sequence[str], as_json: bool, *, ensure_ascii: bool = True) -> None:
    if as_json:
        print_json(facts, ensure_ascii=ensure_ascii)
    else:
        print_lines(lines)


def _adapter_lines(facts: dict[str, Any]) -> list[str]:
    vllm = facts["vllm"]
    origin = [facts[side]["name"] or "unknown" for side in ("base", "donor")]
    energy = "" if facts["energy"] is None else f", energy {facts['energy']:.4f}"
    rope = facts["rope"]
    settings = f"theta {rope['theta']:g}, {rope['max_positions']:,} positions" if rope else "not recorded"
    lines = [
        f"adapter       {facts['path']}",
        f"modules       {facts['modules']} of rank {', '.join(map(str, facts['ranks']))}{energy}",
        f"also          {facts['dense']} dense deltas, {len(facts['replaced'])} replaced tensors",
        f"from          {origin[1]}, on the base {origin[0]}",
        f"rope          {settings}",
        f"size          {facts['bytes']:,} bytes",
        f"vLLM          {'can serve it' if not vllm['problems'] else 'cannot serve it, or not correctly'}",
    ]
    lines += [f"  problem     {problem}" for problem in vllm["problems"]]
    lines += [f"  note        {note}" for note in vllm["notes"]]
    return lines + [f"  option      {option}" for option in vllm["options"]]
