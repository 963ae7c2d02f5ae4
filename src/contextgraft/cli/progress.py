"""What commands print on stderr while they run: messages, and progress by bytes or by number."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.interruption import imports
from contextgraft.cli.output import echo, format_bytes
from contextgraft.cli.verbosity import Verbosity, is_quiet
from contextgraft.errors import printable

if TYPE_CHECKING:
    from contextgraft.sources.hub.client import DownloadProgress
    from contextgraft.sources.hub.files import TransferPlan

LINE_INTERVAL = 30  # seconds between lines where there is no terminal
ON_TERMINAL, IN_LOG = 1, 20  # seconds until a line about imports; in logs, an error shall be the only line


def message_writer(command: str) -> Callable[[str], None]:
    """A function that prints one line on stderr, prefixed with the command's name."""
    if is_quiet():
        return lambda _: None
    return lambda line: echo(f"{command}: {printable(line)}", err=True)


@contextmanager
def loading_line(verbosity: Verbosity) -> Iterator[None]:
    """Print one line if this thread is still importing modules some time after the start; not with -q."""
    thread = threading.get_ident()

    def check() -> None:
        if not verbosity.quiet and imports(sys._current_frames().get(thread)):
            print("contextgraft: loading libraries", file=sys.stderr, flush=True)

    timer = threading.Timer(ON_TERMINAL if sys.stderr and sys.stderr.isatty() else IN_LOG, check)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def bytes_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A function that adds to the bytes done and may be called from any thread.

    Shows a bar on a terminal, elsewhere a line every LINE_INTERVAL seconds; the caller prints the first.
    """
    if is_quiet():
        yield int
        return
    with (_bar if sys.stderr.isatty() else log_lines)(label, total) as advance:
        yield advance


@contextmanager
def bytes_log(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """As `bytes_bar`, where a library shows bars of its own on a terminal."""
    if is_quiet() or sys.stderr.isatty():
        yield int
        return
    with log_lines(label, total) as advance:
        yield advance


@contextmanager
def count_bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """As `bytes_bar`, for a number of things of one kind, such as tensors."""
    if is_quiet():
        yield int
        return
    shown = (
        _bar(label, total, bytes_shown=False)
        if sys.stderr.isatty()
        else log_lines(label, total, size=lambda count: f"{count:,} {unit}")
    )
    with shown as advance:
        yield advance


@contextmanager
def _bar(label: str, total: int, *, bytes_shown: bool = True) -> Iterator[Callable[[int], object]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    size = DownloadColumn() if bytes_shown else MofNCompleteColumn()
    columns = TextColumn("{task.description}"), BarColumn(), size, TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(escape(printable(label)), total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def log_lines(
    label: str,
    total: int,
    clock: Callable[[], float] = time.monotonic,
    size: Callable[[int], str] = format_bytes,
) -> Iterator[Callable[[int], object]]:
    """The share done of all and the remaining time, every LINE_INTERVAL seconds.

    `clock` gives seconds, `size` the words for the total.
    """
    done, start = 0, clock()
    printed_at = start

    def advance(count: int) -> None:
        nonlocal done, printed_at
        done, now = done + count, clock()
        if now - printed_at < LINE_INTERVAL:
            return
        printed_at = now
        left = (now - start) / max(done, 1) * max(total - done, 0) / 60
        share = f"{100 * done / max(total, 1):.0f} % of {size(total)}"
        line = printable(f"{label}: {share}, about {left:.0f} min left")
        print(line, file=sys.stderr, flush=True)

    yield advance


def weight_bytes(*folders: Path) -> int:
    """Bytes of the safetensors files of some models."""
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))


def local_folders(command: str, *sources: Path) -> tuple[Path, ...]:
    """The folders of models or adapters: paths as they are, other sources fetched into the cache.

    A path that does not exist is returned, too: the command says what it expected there. InputError for one
    that is nearly the name of a known adapter.
    """
    if all(source.is_dir() for source in sources):
        return sources
    from contextgraft.sources.cache import is_source, local_folder
    from contextgraft.sources.hub.client import Hub
    from contextgraft.sources.known_adapters import check_spelling

    for source in sources:
        if not source.exists():
            check_spelling(str(source))
    hub, held = Hub(progress=hub_progress(command)), ExitStack()
    context = click.get_current_context(silent=True)
    if context is not None:  # until the command ends, no other run removes what it reads
        context.call_on_close(held.close)
    return tuple(
        local_folder(str(source), hub, held) if is_source(str(source)) else source for source in sources
    )


def hub_progress(command: str, stop: Callable[[], bool] = lambda: False) -> "DownloadProgress":
    """How the hub's client reports: messages, the size of a transfer before it starts, and a bar.

    Once `stop` returns true, a transfer ends with KeyboardInterrupt, whichever thread it runs in.
    """
    from contextgraft.sources.hub.client import DownloadProgress

    write = message_writer(command)

    def show(plan: "TransferPlan") -> None:
        present = f", {format_bytes(plan.present)} of it already here" if plan.present else ""
        write(
            f"{plan.source} at {plan.commit[:12]}: {len(plan.files)} files, "
            f"{format_bytes(plan.bytes)}{present}; {format_bytes(plan.free)} free"
        )

    @contextmanager
    def bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
        with bytes_bar(label, total) as advance:

            def count(received: int) -> None:
                if stop():
                    raise KeyboardInterrupt
                advance(received)

            yield count

    return DownloadProgress(log=write, plan=show, bar=bar)
