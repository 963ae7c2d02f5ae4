"""Progress of an evaluation on a terminal: a bar there, one line per model in a log."""

import time
from collections.abc import Mapping
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contextgraft.errors import printable


class TerminalProgress:
    """Shows one model after another; a stream that is not a terminal gets one line per model."""

    def __init__(self, models: int, stream: TextIO) -> None:
        self._stream = stream
        self._models = models
        self._number = 0
        self._running: tuple[str, float] | None = None
        console = Console(file=stream)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if kind is None:
            self._finish()

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        """A model begins, with this many units per suite; `known` responses are in the cache."""
        self._finish()
        self._number += 1
        before = f" ({known} from an earlier run)" if known else ""
        name = f"[{self._number}/{self._models}] {label}"
        counts = ", ".join(f"{count} {suite}" for suite, count in units.items())
        self._running = (f"{name}: {counts}{before}", time.monotonic())
        shown = escape(printable(name))
        self._bar.reset(self._task, total=sum(units.values()), completed=known, description=shown)

    def advance(self, count: int) -> None:
        """`count` more units are done."""
        self._bar.advance(self._task, count)

    def prefilled(self, prompt: int, computed: int) -> None:
        """Of `prompt` prompt tokens `computed` were computed, the others reused."""
        if self._running is not None and prompt:
            text, start = self._running
            share = f"{100 * computed / prompt:.0f} % of {prompt:,} prompt tokens prefilled"
            self._running = (f"{text}, {share}", start)

    def kept(self, label: str) -> None:
        """A model's samples were complete already."""
        self._finish()
        self._number += 1
        self._say(f"[{self._number}/{self._models}] {label}: complete already")

    def _finish(self) -> None:
        if self._running is not None:
            text, start = self._running
            self._say(f"{text}, {time.monotonic() - start:.1f} s")
            self._running = None

    def _say(self, line: str) -> None:
        self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
