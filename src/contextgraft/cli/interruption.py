"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) at any moment: one line and exit code 128 + signal.

The line is the same whatever a library makes of the signal.
"""

import os
import signal
import sys
import threading
from collections.abc import Container
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from contextgraft.cli.output import echo

# each with the handler that it has unless someone else handles it, as nohup and Slurm's tools do
SIGNALS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
RESUME = "run the same command again to resume"


class Interruption:
    """The signal that was received, if any. DuckDB, for one, makes an error of its own of an interrupt."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def watch(self) -> None:
        """Handle the signals from now on, except those that are ignored or handled; not in a thread."""
        if threading.current_thread() is threading.main_thread():
            for number, initial in SIGNALS.items():
                if signal.getsignal(number) == initial:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        sys.unraisablehook = lambda _: None  # what the interrupt breaks is not news
        threading.excepthook = lambda _: None
        if imports(frame):
            self.exit()  # an exception in the import of a library in C++ aborts the process
        signal.default_int_handler(number, frame)

    def exit(self) -> NoReturn:
        """Print the line and exit; of torchrun's processes, only the first prints.

        After a signal without the end of the interpreter, in which threads of V8 and torch abort. Further
        signals are ignored: a launcher may send again what its terminal sent to all processes.
        """
        self._unwatch(ignored=SIGNALS)
        number = self.received or signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {number.name}"
        if os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # of a terminal that was closed
                if sys.stderr is not None and sys.stderr.isatty():
                    echo(err=True)  # below the ^C that a terminal shows
                echo(f"contextgraft: interrupted{by}; {RESUME}", err=True)
        if not self.received:
            sys.exit(128 + number)
        sys.stdout = sys.stderr = None  # nothing more is written
        os._exit(128 + number)

    def end(self) -> None:
        """Ignore SIGINT while a command that has finished leaves the interpreter; the others end it."""
        self._unwatch(ignored=(signal.SIGINT,))

    def _unwatch(self, ignored: Container[signal.Signals]) -> None:
        """Handle the signals no longer; those that are not ignored end the process."""
        for number in SIGNALS:
            if signal.getsignal(number) == self._receive:
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
