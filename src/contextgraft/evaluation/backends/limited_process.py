"""A function that runs a stranger's program, such as a chat template, in a process with limits."""

import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from contextgraft.errors import CheckpointError

CPU_SECONDS = 5
WALL_SECONDS = 30  # of a machine that is busy with other work
MEMORY = 1 << 29  # bytes in addition to those of this process
LONGEST = 1_000_000  # characters of a result


def run_limited(function: Callable[[], str], what: str, path: Path) -> str:
    """The text that a function returns in a forked process.

    CheckpointError, which begins with `what`, if it raises, does not end, or takes too much memory. The
    function may run Python only: threads of other libraries are not in the forked process.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _run(function, writer)
    os.close(writer)
    try:
        answer = _read(reader)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if answer[:1] == b"+":
        return answer[1:].decode()
    if answer:
        raise CheckpointError(f"{what} cannot be used", path=path, received=answer[1:].decode()[:300])
    code = os.waitstatus_to_exitcode(status)
    raise CheckpointError(
        f"{what} was stopped",
        path=path,
        expected=f"an end within {CPU_SECONDS} seconds and {MEMORY >> 20} MB of memory",
        received="a longer run" if code == -signal.SIGKILL else f"exit code {code}",
    )


def _run(function: Callable[[], str], writer: int) -> NoReturn:
    """In the child: write "+" and the text, or "-" and the error, and exit."""
    try:
        size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
        spent = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_SECONDS,) * 2)
        try:
            text = function()
            if len(text) > LONGEST:
                raise ValueError(f"a text of {len(text):,} characters, more than {LONGEST:,}")
            answer = b"+" + text.encode()
        except BaseException as error:  # of the stranger's program
            answer = f"-{type(error).__name__}: {error}"[:1000].encode(errors="replace")
        while answer:
            answer = answer[os.write(writer, answer) :]
    finally:
        os._exit(0)


def _read(reader: int) -> bytes:
    """What the child writes until it ends, or nothing if that takes too long."""
    parts: list[bytes] = []
    end = time.monotonic() + WALL_SECONDS
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""
