"""A line on stderr where the import of libraries takes long, so that no command is silent from its start."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from contextgraft.cli.verbosity import Verbosity

ON_TERMINAL, IN_LOG = 1, 10  # seconds until the line; errors in logs shall be the only line


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


def imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
