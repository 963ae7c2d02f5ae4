"""`contextgraft cache`: list or remove what commands fetched from the hub or converted."""

import click

from contextgraft.cli.options import example, json_option
from contextgraft.cli.output import echo, format_bytes, print_json


@click.command(epilog=example("contextgraft cache", "contextgraft cache --clear"))
@click.option("--clear", is_flag=True, help="Remove everything in the cache that no other run uses.")
@json_option()
def command(*, clear: bool, as_json: bool) -> None:
    """List the models and adapters that commands fetched from their sources, with their bytes.

    The cache is the folder in CONTEXTGRAFT_CACHE, by default ~/.cache/contextgraft/models.
    """
    from contextgraft.sources.cache import cache_folder, cached_models, clear_cache

    models = list(cached_models())
    if clear:
        for path in clear_cache():
            echo(f"contextgraft: {path} is in use by another run; not removed", err=True)
            models = [model for model in models if model.path.parent != path]
    if as_json:
        rows = [{"path": str(model.path), "source": model.source, "bytes": model.bytes} for model in models]
        print_json(rows)
        return
    for model in models:
        echo(f"{format_bytes(model.bytes):>10}  {model.source}  {model.path}")
    total = format_bytes(sum(model.bytes for model in models))
    echo(f"{cache_folder()}: {len(models)} models or adapters, {total}{', removed' if clear else ''}")
