"""A command in this process, within bounded time and memory, and what is wrong with the way it ended."""

import contextlib
import io
import resource
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from contextgraft.cli.interruption import SIGNALS
from contextgraft.cli.main import main

MEMORY = 3 << 30  # bytes more than at the start; torch and its threads reserve addresses that they do not use
SECONDS = 300  # of wall time: other programs may run


@dataclass(frozen=True)
class Outcome:
    """The exit code of a command, what it printed, and the traceback of what it raised."""

    status: int | None
    stderr: str
    raised: str = ""
    stdout: str = ""


def run(args: list[str], seconds: int = SECONDS, memory: int = MEMORY) -> Outcome:
    """A command in this process, within limits."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv, limit = sys.argv, resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    sys.argv = ["contextgraft", *args]
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, limit[1]))
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        return Outcome(code, stderr.getvalue(), stdout=stdout.getvalue())
    except BaseException:  # a panic of Rust is no Exception
        return Outcome(None, stderr.getvalue(), traceback.format_exc())
    finally:
        signal.alarm(0)
        for number, handler in handlers.items():  # a command that has finished ignores SIGINT
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        sys.argv = argv
    return Outcome(0, stderr.getvalue(), stdout=stdout.getvalue())


def _hangs(*_: object) -> None:
    raise TimeoutError("hangs")


def flaw(outcome: Outcome, statuses: tuple[int, ...]) -> str | None:
    """What is wrong with the way a command ended; None if it is right."""
    if outcome.raised:
        return outcome.raised
    if outcome.status in statuses:
        return "a traceback" if "Traceback" in outcome.stderr else None
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("contextgraft: error: ")]
    if outcome.status != 2 or len(lines) != 1 or "Traceback" in outcome.stderr:
        return f"exit code {outcome.status}: {outcome.stderr}"
    return None if len(lines[0]) < 2000 and lines[0].isprintable() else f"a line of {lines[0]!r}"
