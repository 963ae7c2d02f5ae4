"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30  # seconds between lines where there is no terminal


@contextmanager
def bytes_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A function that takes the number of bytes just dealt with, from any thread."""
    with (_bar if sys.stderr.isatty() else _lines)(what, total) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _lines(what: str, total: int) -> Iterator[Callable[[int], object]]:
    state = {"done": 0.0, "said": time.monotonic()}

    def advance(count: int) -> None:
        state["done"] += count
        if time.monotonic() - state["said"] >= EVERY:
            state["said"] = time.monotonic()
            print(f"{what}: {100 * state['done'] / max(total, 1):.0f} %", file=sys.stderr, flush=True)

    yield advance


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
