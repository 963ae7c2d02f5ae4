"""Ctrl-C at any moment: one line and exit code 130, whatever a library makes of the signal."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from contextgraft.cli.output import echo

EXIT_CODE = 130


class Interruption:
    """Whether SIGINT was received. DuckDB, for one, makes an error of its own of it."""

    def __init__(self) -> None:
        self.received = False

    def watch(self) -> None:
        """Handle SIGINT from now on, unless the process was started with it ignored, or runs in a thread."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        sys.unraisablehook = lambda _: None  # what the interrupt breaks is not news
        threading.excepthook = lambda _: None
        if imports(frame):
            self.exit()  # an exception in the import of a library in C++ aborts the process
        signal.default_int_handler(number, frame)

    def exit(self) -> NoReturn:
        """Print the line and exit; of torchrun's processes, only the first prints.

        After a signal without the end of the interpreter, in which threads of V8 and torch abort.
        """
        if os.environ.get("RANK", "0") == "0":
            echo("contextgraft: interrupted; run the same command again to resume", err=True)
        if not self.received:
            sys.exit(EXIT_CODE)
        sys.stdout = sys.stderr = None  # nothing more is written
        os._exit(EXIT_CODE)

    def end(self) -> None:
        """Ignore SIGINT while a command that has finished leaves the interpreter."""
        if signal.getsignal(signal.SIGINT) == self._receive:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
