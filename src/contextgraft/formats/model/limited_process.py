"""A function that runs a stranger's program, such as a chat template, in a process with limits."""

import _imp
import gc
import importlib
import json
import os
import resource
import select
import signal
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from contextgraft.errors import CheckpointError, ContextgraftError, ProcessEnded, missing_extra
from contextgraft.extras import missing_package

HEADER = struct.Struct("<dQ")  # of a request: seconds of CPU granted so far; of both: bytes that follow
WALL_SECONDS, WALL_FACTOR = 60, 20  # and so often the CPU's, on a machine that is busy with other work
LONGEST = 1_000_000  # characters of a result
IMPORT_SECONDS = 10  # that a fork waits for the imports of other threads
OUT_OF_MEMORY = 77  # exit code
OWN_SIGNALS = {
    "SIGPROF": "a longer run", "SIGABRT": "SIGABRT, mostly for more memory", "SIGSEGV": "SIGSEGV",
    "SIGBUS": "SIGBUS", "SIGFPE": "SIGFPE", "SIGILL": "SIGILL", "SIGTRAP": "SIGTRAP",
}  # fmt: skip


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
    """A forked process that answers requests, one after another, until it is closed or exceeds its limits.

    ProcessEnded if it cannot be started.
    """

    def __init__(self, answer: Callable[[bytes], bytes], what: str, path: Path, memory: int) -> None:
        self._what, self._path, self._memory = what, path, memory
        self._granted = 0.0
        self._end: ContextgraftError | None = None
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += os.pipe()
            self._child: int | None = fork()
        except OSError as error:
            for handle in pipes:
                os.close(handle)
            raise ProcessEnded(
                f"{what} needs a process of its own, which cannot be started", path=path,
                received=error.strerror, remedy="raise the limits of this machine (`ulimit -a`)",
            ) from None  # fmt: skip
        request_end, self._requests, self._answers, answer_end = pipes
        if self._child == 0:
            _serve(answer, request_end, answer_end, memory)
        os.close(request_end)
        os.close(answer_end)

    def ask(self, request: bytes, cpu_seconds: float) -> bytes:
        """The answer to a request, for which the process may use so many seconds more than it has used.

        CheckpointError if the function raises or the process exceeds its limits, and again for every later
        request; ProcessEnded if something else ended it; MissingExtra for an optional package.
        """
        self._granted += cpu_seconds
        if self._child is None:
            raise self._end or self._stopped("an earlier request that was interrupted")
        try:
            with suppress(BrokenPipeError):
                _write(self._requests, HEADER.pack(self._granted, len(request)) + request)
            answer = _read_answer(
                self._answers, time.monotonic() + WALL_SECONDS + WALL_FACTOR * self._granted
            )
        except TimeoutError:
            self.close()
            self._end = self._stopped("a longer run")
            raise self._end from None
        except BaseException:  # an interrupt: what is still to come answers no later request
            self.close()
            raise
        if answer is None:
            self._end = self._ended(self.close())
            raise self._end
        if answer[:1] == b"-":
            raise self._failed(json.loads(answer[1:]))
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

    def _failed(self, error: dict[str, str]) -> ContextgraftError:
        """The error for an exception of the function."""
        missing = missing_extra(ModuleNotFoundError(name=error["package"]))
        if missing is not None:
            return missing
        if error["kind"] == MemoryError.__name__:
            return self._too_large()
        received = f"{error['kind']}: {error['text']}"[:300]
        return CheckpointError(f"{self._what} cannot be used", path=self._path, received=received)

    def _ended(self, code: int | None) -> ContextgraftError:
        """The error for a process that has ended by itself, or by a signal."""
        if code == OUT_OF_MEMORY:
            return self._too_large()
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if name in OWN_SIGNALS:
            return self._stopped(OWN_SIGNALS[name])
        return ProcessEnded(
            f"{self._what} was used by a process that was ended from outside", path=self._path,
            received=name, remedy="look for too little memory on this machine, and run again",
        )  # fmt: skip

    def _too_large(self) -> ContextgraftError:
        """The error for too little memory: the function's fault, unless this process may hardly have any."""
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY or limit - _address_space() > self._memory // 4:
            received = f"{MemoryError.__name__}: more than {self._memory >> 20} MB"
            return CheckpointError(f"{self._what} cannot be used", path=self._path, received=received)
        return ProcessEnded(
            f"{self._what} needs more memory than the limit of this process", path=self._path,
            remedy="raise it (`ulimit -v`)",
        )  # fmt: skip

    def _stopped(self, received: str) -> CheckpointError:
        return CheckpointError(
            f"{self._what} was stopped",
            path=self._path,
            expected=f"an end within {self._granted:.3g} seconds and {self._memory >> 20} MB of memory",
            received=received,
        )


def fork() -> int:
    """As `os.fork`, but not while another thread imports a module, whose lock the child would wait for."""
    until = time.monotonic() + IMPORT_SECONDS
    while True:
        _imp.acquire_lock()  # so that no import begins
        try:
            if not _others_import() or time.monotonic() > until:
                return os.fork()
        finally:
            _imp.release_lock()
        time.sleep(0.01)


def _others_import() -> bool:
    """Whether another thread holds the lock of a module, in the table of CPython's importlib."""
    table = getattr(importlib._bootstrap, "_module_locks", {})
    locks = [reference() for reference in list(table.values())]
    return any(lock is not None and lock.owner not in (None, threading.get_ident()) for lock in locks)


def _serve(answer: Callable[[bytes], bytes], requests: int, answers: int, memory: int) -> NoReturn:
    """In the child: answer with "+" and bytes, or "-" and the error, until there are no more requests."""
    code = 1
    try:
        # a terminal and Slurm send them to the parent too, which may want an answer before it ends
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        gc.disable()  # it would copy the memory that is shared with the parent
        _close_inherited({requests, answers})
        lower_limit(resource.RLIMIT_CORE, 0)
        lower_limit(resource.RLIMIT_AS, _address_space() + memory)
        spent = time.process_time()
        while header := _read(requests, HEADER.size):
            granted, length = HEADER.unpack(header)
            request = _read(requests, length)
            signal.setitimer(signal.ITIMER_PROF, max(granted + spent - time.process_time(), 0.001))
            reply = _reply(answer, request)
            _write(answers, HEADER.pack(0, len(reply)) + reply)
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        os._exit(code)


def _reply(answer: Callable[[bytes], bytes], request: bytes) -> bytes:
    """The answer after "+", or after "-" a description of the exception of the stranger's program."""
    try:
        return b"+" + answer(request)
    except BaseException as error:
        facts = {
            "kind": type(error).__name__, "text": str(error)[:1000], "package": missing_package(error) or ""
        }  # fmt: skip
        return b"-" + json.dumps(facts).encode()


def _address_space() -> int:
    """Bytes of addresses of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


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
    """So many bytes; none if the other side is closed. TimeoutError at the time `end`."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while count:
        patience = None if end is None else max(0.0, end - time.monotonic()) * 1000
        if not poll.poll(patience):
            raise TimeoutError
        part = os.read(handle, min(count, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_answer(handle: int, end: float) -> bytes | None:
    header = _read(handle, HEADER.size, end)
    return _read(handle, HEADER.unpack(header)[1], end) or None if header else None
