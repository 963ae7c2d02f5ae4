"""`contextgraft merge` in a study: the adapter that the report recommends, and the verdict on the graft."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from contextgraft.cli.output import echo
from contextgraft.errors import ContextgraftError, InputError


def recommended_adapter(recommendation: Path, adapters: Sequence[Path], target: Path) -> Path:
    """The adapter of the recommended rank; InputError if no rank is recommended, or no adapter has it."""
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.checkpoint.model_folder import open_model, read_json

    content = read_json(recommendation)
    rank = content.get("rank")
    if "rank" not in content or not (rank is None or isinstance(rank, int)):
        raise InputError(
            "is not a recommendation", path=recommendation,
            expected="the key rank, as `contextgraft evaluate --recommendation` writes it",
        )  # fmt: skip
    if rank is None:
        open_model(target)  # a target that was refused is refused for its own reason
        raise InputError(
            "recommends no rank", path=recommendation, received=_reason(content.get("verdicts")),
            remedy="see the report; merge an adapter of your choice with `contextgraft merge`",
        )  # fmt: skip
    ranks = {path: open_adapter(path).rank for path in adapters}
    chosen = next((path for path, own in ranks.items() if own == rank), None)
    if chosen is None:
        raise InputError(
            "recommends a rank that no --adapter has", path=recommendation, received=rank,
            expected=", ".join(map(str, sorted(ranks.values()))), remedy="evaluate again with these adapters",
        )  # fmt: skip
    return chosen


def _reason(verdicts: object) -> str:
    rows = [row for row in verdicts if isinstance(row, dict)] if isinstance(verdicts, list) else []
    return "; ".join(f"{row.get('condition')}: {row.get('outcome')}" for row in rows) or "no needle scores"


@contextmanager
def refusal_verdict(verdict: Path | None) -> Iterator[None]:
    """With --refusal, an error about a model that is raised inside becomes the verdict, too."""
    from contextgraft.formats.refusal import is_final

    try:
        yield
    except ContextgraftError as error:
        recorded = click.get_current_context().find_root().params.get("refusal") is not None
        if verdict is not None and recorded and is_final(error):
            _write(verdict, {"holds": None, "refused": str(error)})
        raise


def write_verdict(
    verdict: Path,
    graft: Path,
    *,
    target: Path,
    adapters: Sequence[Path],
    threads: int,
    advance: Callable[[int], object] = int,
) -> None:
    """Verify a written graft against its target and adapters; exit code 1 if anything differs."""
    from contextgraft.adapter.verify.checks import as_json
    from contextgraft.adapter.verify.graft import verify

    checks = verify(graft, target=target, adapters=adapters, threads=threads, advance=advance)
    result = as_json(checks)
    _write(verdict, result)
    if not result["holds"]:
        for check in checks:
            if not check.holds:
                echo(f"contextgraft: error: {graft}: {check.name}: {check.detail}", err=True)
        sys.exit(1)


def _write(verdict: Path, content: object) -> None:
    from contextgraft.checkpoint.atomic import write_json

    verdict.parent.mkdir(parents=True, exist_ok=True)
    write_json(verdict, content)
