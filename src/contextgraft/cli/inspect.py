"""`contextgraft inspect`: what a model is, and how far from its base."""

from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="Compare with this model, tensor kind by kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, model: Path, base: Path | None, as_json: bool) -> None:
    """Show architecture, RoPE, context, dtype, vocabulary, parameters and bytes of a model folder.

    With --base also the relative distance from it: of each kind of tensor, over the rows that both have.
    """
    import json

    from contextgraft.checkpoint import summary, vocabulary
    from contextgraft.checkpoint.distance import distance
    from contextgraft.checkpoint.layout import open_model

    folder = open_model(model)
    info = summary.summary(folder)
    lines = summary.summary_lines(info)
    if base is not None:
        ancestor = open_model(base)
        words = vocabulary.read_vocabulary(ancestor), vocabulary.read_vocabulary(folder)
        tokens = (
            vocabulary.compare(words[0], words[1]) if words[0] is not None and words[1] is not None else None
        )
        info["base"] = {"path": str(base), **summary.difference(distance(ancestor, folder), tokens)}
        lines += ["", f"distance from {base}", *summary.difference_lines(info["base"])]
    click.echo(
        json.dumps(info, indent=2, sort_keys=True, ensure_ascii=False) if as_json else "\n".join(lines)
    )
