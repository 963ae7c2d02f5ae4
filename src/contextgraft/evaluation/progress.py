"""Progress of an evaluation: a bar on a terminal; in a log, lines as each model begins, runs and ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contextgraft.errors import printable

LINE_INTERVAL = 30  # seconds between lines about one model where there is no terminal


@dataclass
class RunningModel:
    """The model that is evaluated: its name, the text of its lines, units done and in all, seconds."""

    name: str
    text: str
    known: int
    done: int
    total: int
    started: float
    printed: float


class TerminalProgress:
    """Shows one model after another; `clock` gives seconds.

    Where there is no terminal, a model has a line as it begins, every LINE_INTERVAL seconds, and as it ends.
    """

    def __init__(self, models: int, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock = clock
        self._number = 0
        self._running: RunningModel | None = None
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
        text, now = f"{name}: {counts}{before}", self._clock()
        self._running = RunningModel(name, text, known, known, sum(units.values()), now, now)
        if not self._bar.console.is_terminal:
            self._say(text)
        shown = escape(printable(name))
        self._bar.reset(self._task, total=self._running.total, completed=known, description=shown)

    def advance(self, count: int) -> None:
        """`count` more units are done."""
        self._bar.advance(self._task, count)
        model, now = self._running, self._clock()
        if model is None:
            return
        model.done += count
        if self._bar.console.is_terminal or now - model.printed < LINE_INTERVAL:
            return
        model.printed = now
        left = (now - model.started) / max(model.done - model.known, 1) * (model.total - model.done) / 60
        self._say(f"{model.name}: {model.done:,} of {model.total:,}, about {left:.0f} min left")

    def prefilled(self, prompt: int, computed: int) -> None:
        """Of `prompt` prompt tokens `computed` were computed, the others reused."""
        if self._running is not None and prompt:
            share = f"{100 * computed / prompt:.0f} % of {prompt:,} prompt tokens prefilled"
            self._running.text += f", {share}"

    def kept(self, label: str) -> None:
        """A model's samples were complete already."""
        self._finish()
        self._number += 1
        self._say(f"[{self._number}/{self._models}] {label}: complete already")

    def _finish(self) -> None:
        if self._running is not None:
            self._say(f"{self._running.text}, {self._clock() - self._running.started:.1f} s")
            self._running = None

    def _say(self, line: str) -> None:
        self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
