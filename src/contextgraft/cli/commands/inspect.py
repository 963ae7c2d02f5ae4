"""`contextgraft inspect`: what a model or an adapter is, and how far a model is from its base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.option_types import COUNT
from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import print_json, print_lines
from contextgraft.cli.progress import local_folders

if TYPE_CHECKING:
    from contextgraft.checkpoint.model_folder import ModelFolder

GGUF, PACKAGE = ".gguf", "package:"  # ends or begins a source that is a GGUF file
OF_A_SHEET = ("headers", "threads", "strict")  # before `inspect-sheet` was a verb, they stood here


@click.command(
    epilog=example("contextgraft inspect adapters/r32", "contextgraft inspect my-fine-tune --base my-base")
)
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

    Of an adapter: modules, ranks, origin, whether vLLM can serve it, and a command to copy for each of vLLM,
    llama.cpp and SGLang, with the donor's RoPE settings and context length. Of a graft: these commands, too.
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
    if base is None and _shown_without_weights(model, as_json):
        return
    models = (model,) if base is None else (model, Path(base))
    model, *bases = local_folders("inspect", *models)
    if not (model / "adapter_config.json").exists():
        _show_model(model, bases[0] if bases else None, as_json)
    elif base is None:
        _show_adapter(model, as_json)
    else:
        raise click.UsageError("--base is for models; to compare two adapters use compare")


def _shown_without_weights(source: Path, as_json: bool) -> bool:
    """Show a model of the hub or a GGUF file by its headers; False for folders and adapters."""
    if source.is_dir():
        return False
    import tempfile

    from contextgraft.checkpoint.model_folder import ADAPTER_CONFIG, open_model
    from contextgraft.cli.progress import hub_progress
    from contextgraft.sources.cache import cached_folder
    from contextgraft.sources.fetch import fetch
    from contextgraft.sources.hub.client import Hub
    from contextgraft.sources.open_headers import open_model_headers
    from contextgraft.sources.resolve import is_dataset, locate, on_hub

    text, whole = str(source), None
    if is_dataset(text) or not (on_hub(text) or text.endswith(GGUF) or text.startswith(PACKAGE)):
        return False
    with tempfile.TemporaryDirectory(prefix="contextgraft-") as folder:
        cache, hub = Path(folder) / "model", Hub(progress=hub_progress("inspect"))
        if on_hub(text):
            whole = cached_folder(text, hub)
            if whole is None:
                fetch(text, cache, hub=hub, headers=True)
            if ((whole or cache) / ADAPTER_CONFIG).exists():
                return False
        elif not locate(text).is_file():
            return False
        opened = open_model(whole) if whole else open_model_headers(text, cache, hub)
        _show_summary(opened, text, as_json)
    return True


def _show_summary(folder: "ModelFolder", source: str, as_json: bool) -> None:
    from contextgraft.adapter.analysis import model_summary

    info = model_summary.summary(folder) | {"path": source}
    _print(info, model_summary.summary_lines(info), as_json, ensure_ascii=False)


def _show_model(path: Path, base: Path | None, as_json: bool) -> None:
    from contextgraft.adapter.analysis import model_summary
    from contextgraft.adapter.analysis.server_commands import command_lines, graft_commands, to_json
    from contextgraft.checkpoint.model_folder import SIDECAR, open_model, read_json
    from contextgraft.formats.graft_record import KIND

    folder = open_model(path)
    info = model_summary.summary(folder)
    lines = model_summary.summary_lines(info)
    if SIDECAR in folder.others and read_json(path / SIDECAR).get("kind") == KIND:
        info["servers"] = to_json(graft_commands(path, info["context"]))
        lines += ["", "to serve it, one line each:", *command_lines(info["servers"])]
    if base is not None:
        ancestor = open_model(base)
        reasons = _reasons(ancestor, folder)
        verdict = {"fits": not reasons, "reasons": reasons}
        info["base"] = {"path": str(base), **verdict, **_difference(ancestor, folder)}
        lines += ["", f"fits {base}: {'; '.join(reasons) or 'yes, an adapter of it can be merged'}"]
        lines += ["", f"distance from {base}", *model_summary.difference_lines(info["base"])]
    _print(info, lines, as_json, ensure_ascii=False)


def _reasons(base: "ModelFolder", model: "ModelFolder") -> list[str]:
    """Reasons for which no adapter of the base can be merged into the model, as inspect-sheet gives them."""
    from contextgraft.adapter.analysis.compatibility import check_compatibility, reasons
    from contextgraft.errors import ContextgraftError

    try:
        return list(reasons(check_compatibility(base, model)))
    except ContextgraftError as error:
        return [str(error)]


def _difference(base: "ModelFolder", model: "ModelFolder") -> dict[str, Any]:
    from contextgraft.adapter.analysis.distance import model_distance
    from contextgraft.adapter.analysis.model_summary import difference
    from contextgraft.checkpoint.full_precision import check_full_precision
    from contextgraft.formats.model import vocabulary

    for folder in (base, model):
        check_full_precision(folder, "the distance of two models")
    base_tokens, model_tokens = vocabulary.read_vocabulary(base), vocabulary.read_vocabulary(model)
    if base_tokens is None or model_tokens is None:
        return difference(model_distance(base, model), None)
    return difference(model_distance(base, model), vocabulary.compare(base_tokens, model_tokens))


def _show_adapter(path: Path, as_json: bool) -> None:
    from contextgraft.adapter.analysis.adapter_summary import adapter_lines, describe_adapter
    from contextgraft.adapter.lora.adapter import open_adapter

    facts = describe_adapter(open_adapter(path))
    _print(facts, adapter_lines(facts), as_json)


def _print(facts: dict[str, Any], lines: Sequence[str], as_json: bool, *, ensure_ascii: bool = True) -> None:
    if as_json:
        print_json(facts, ensure_ascii=ensure_ascii)
    else:
        print_lines(lines)
