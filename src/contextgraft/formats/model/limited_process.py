"""A function that runs a stranger's program, such as a chat template, in a process with limits."""

import gc
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from contextgraft.errors import CheckpointError

HEADER = struct.Struct("<dQ")  # of a request: seconds of CPU granted so far; of both: bytes that follow
WALL_SECONDS, WALL_FACTOR = 60, 20  # and so often the CPU's, on a machine that is busy with other work
LONGEST = 1_000_000  # characters of a result


@dataclass(frozen=True)
class ProcessBudget:
    """What a process may use: seconds of CPU for a request, and bytes beyond those of this process."""

    cpu_seconds: float
    memory: int


def run_limited(function: Callable[[], str], what: str, path: Path, budget: ProcessBudget) -> str:
    """The text that a function returns in a forked process.

    CheckpointError, which begins with `what`, if it raises, does not end, or takes too much memory. The
    function may run Python only: threads of other libraries are not in the forked process.
    """
    process = LimitedProcess(lambda _: _checked(function()).encode(), what, path, budget.memory)
    try:
        return process.ask(b"", budget.cpu_seconds).decode()
    finally:
        process.close()


def _checked(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"a text of {len(text):,} characters, more than {LONGEST:,}")
    return text


class LimitedProcess:
    """A forked process that answers requests, one after another, until it is closed or exceeds its limits."""

    def __init__(self, answer: Callable[[bytes], bytes], what: str, path: Path, memory: int) -> None:
        self._what, self._path, self._memory = what, path, memory
        self._granted = 0.0
        request_end, self._requests = os.pipe()
        self._answers, answer_end = os.pipe()
        self._child: int | None = os.fork()
        if self._child == 0:
            _serve(answer, request_end, answer_end, memory)
        os.close(request_end)
        os.close(answer_end)

    def ask(self, request: bytes, cpu_seconds: float) -> bytes:
        """The answer to a request, for which the process may use so many seconds more than it has used.

        CheckpointError if the function raises or the process exceeds its limits.
        """
        self._granted += cpu_seconds
        if self._child is None:
            raise self._stopped("an earlier request that ended it")
        try:
            with suppress(BrokenPipeError):
                _write(self._requests, HEADER.pack(self._granted, len(request)) + request)
            answer = _read_answer(
                self._answers, time.monotonic() + WALL_SECONDS + WALL_FACTOR * self._granted
            )
        except BaseException:  # an interrupt: what is still to come answers no later request
            self.close()
            raise
        if answer is None:
            code = self.close()
            raise self._stopped("a longer run" if code == -signal.SIGKILL else f"exit code {code}")
        if answer[:1] == b"-":
            received = answer[1:].decode()[:300]
            raise CheckpointError(f"{self._what} cannot be used", path=self._path, received=received)
        return answer[1:]

    def close(self) -> int | None:
        """End the process; its exit code, or None if it was closed before."""
        if self._child is None:
            return None
        child, self._child = self._child, None
        os.close(self._requests)
        os.close(self._answers)
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()

    def _stopped(self, received: str) -> CheckpointError:
        return CheckpointError(
            f"{self._what} was stopped",
            path=self._path,
            expected=f"an end within {self._granted:.3g} seconds and {self._memory >> 20} MB of memory",
            received=received,
        )


def _serve(answer: Callable[[bytes], bytes], requests: int, answers: int, memory: int) -> NoReturn:
    """In the child: answer with "+" and bytes, or "-" and the error, until there are no more requests."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.disable()  # it would copy the memory that is shared with the parent
        _close_inherited({requests, answers})
        size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        lower_limit(resource.RLIMIT_CORE, 0)
        lower_limit(resource.RLIMIT_AS, size + memory)
        spent = time.process_time()
        while header := _read(requests, HEADER.size):
            granted, length = HEADER.unpack(header)
            request = _read(requests, length)
            signal.setitimer(signal.ITIMER_PROF, max(granted + spent - time.process_time(), 0.001))
            try:
                reply = b"+" + answer(request)
            except BaseException as error:  # of the stranger's program
                reply = f"-{type(error).__name__}: {error}"[:1000].encode(errors="replace")
            _write(answers, HEADER.pack(0, len(reply)) + reply)
    finally:
        os._exit(0)


def lower_limit(kind: int, value: int) -> None:
    """Limit a resource of this process, as in `resource.setrlimit`; a stricter limit stays."""
    lowest = min((value, *(limit for limit in resource.getrlimit(kind) if limit >= 0)))
    resource.setrlimit(kind, (lowest, lowest))


def _close_inherited(kept: set[int]) -> None:
    """Close the pipes of other processes, which else do not end; what a library prints in a panic is lost."""
    os.environ["RUST_BACKTRACE"] = "0"  # which takes seconds
    for path in list(Path("/proc/self/fd").iterdir()):
        if int(path.name) > 2 and int(path.name) not in kept:
            with suppress(OSError):
                os.close(int(path.name))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _read(handle: int, count: int, end: float | None = None) -> bytes:
    """So many bytes; none if the other side is closed, or at the time `end`."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while count:
        patience = None if end is None else max(0.0, end - time.monotonic()) * 1000
        part = os.read(handle, min(count, 1 << 20)) if poll.poll(patience) else b""
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_answer(handle: int, end: float) -> bytes | None:
    header = _read(handle, HEADER.size, end)
    return _read(handle, HEADER.unpack(header)[1], end) or None if header else None
