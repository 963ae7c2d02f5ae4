"""One process that has imported torch and forks a child for every run of the command line.

Requests are lines of JSON on stdin, replies lines of JSON on stdout. A request is `{"args": [...]}` and,
optionally, `at` and `signal` (the child sends itself that signal at the n-th step: one that changes a disk,
or with `reads` opens a file), `after` (seconds until SIGKILL), `file_bytes` (limit for every file), `memory`
(bytes in addition to those at the start), `uid`, `timeout`. The reply for a child that stopped itself has the
status null; `{"resume": pid}` continues it. Flushing to the disk is logged but not done: a killed process
loses nothing by it.
"""

import gc
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Request = dict[str, Any]
MOVES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITES = ("fsync", "fdatasync", "pwrite", "pwritev", "write", "writev", "copy_file_range", "sendfile")
TICK = 0.001  # seconds between looks at a child


@dataclass
class Steps:
    """A log of the changes that a child makes to the disk; at step `at` it sends itself its signal."""

    request: Request
    log: int
    write: Callable[[int, bytes], int] = os.write
    process: int = field(default_factory=os.getpid)  # those that it forks are not logged
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # for several threads

    def install(self) -> None:
        """Log every change: audit events of the interpreter, and wrappers of the calls that have none."""
        for name in WRITES:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        sys.addaudithook(self._audit)

    def take(self, what: str, path: str = "") -> None:
        """Log one step, and send the signal before it if it is step `at`."""
        if os.getpid() != self.process:
            return
        number = next(self.numbers)
        self.write(self.log, json.dumps([what, path]).encode() + b"\n")
        if number == self.request.get("at"):
            self._die(self.request.get("signal", signal.SIGKILL))

    def _die(self, number: int) -> None:
        """A signal to the process as a whole comes at once only if it is deadly; to stop takes its time."""
        if number == signal.SIGSTOP:
            signal.pthread_kill(threading.get_ident(), number)
        else:
            os.kill(os.getpid(), number)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in MOVES:
            self.take(event, str(arguments[1 if event == "os.rename" else 0]))
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & self._modes():
            self.take(event, str(arguments[0]))

    def _modes(self) -> int:
        """Bits of the modes of opening that are steps."""
        return -1 if self.request.get("reads") else os.O_WRONLY | os.O_RDWR

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.take(name)
            return None if "sync" in name else call(*args, **kwargs)

        return stepping


@dataclass
class Child:
    """A run under way, what it says and does in files of its own."""

    request: Request
    begun: float = field(default_factory=time.monotonic)
    files: list[int] = field(default_factory=lambda: [_nameless() for _ in range(3)])
    pid: int = 0

    def fork(self) -> None:
        """Begin the run."""
        self.pid = os.fork()
        if self.pid == 0:
            for target, source in enumerate(self.files[:2], start=1):
                os.dup2(source, target)
            os._exit(_run(self.request, self.files[2]))

    def wait(self) -> Request:
        """The answer, when the child has ended or stopped; it is killed at its time."""
        fate = {
            when: self.request[when] for when in ("after", "timeout") if self.request.get(when) is not None
        }
        late = False
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return self._answer(None, late)
            if pid:
                return self._answer(os.waitstatus_to_exitcode(status), late)
            spent = time.monotonic() - self.begun
            if fate and spent >= min(fate.values()):
                late = min(fate, key=lambda when: fate[when]) == "timeout"
                os.kill(self.pid, signal.SIGKILL)
                fate = {}
            time.sleep(TICK)

    def _answer(self, status: int | None, late: bool) -> Request:
        out, err, log = (_text(handle, close=status is not None) for handle in self.files)
        steps = [json.loads(line) for line in log.splitlines()]
        seconds = time.monotonic() - self.begun
        return {
            "status": status, "late": late, "pid": self.pid, "seconds": seconds,
            "stdout": out, "stderr": err, "steps": steps,
        }  # fmt: skip


def _run(request: Request, log: int) -> int:
    """The command line in this process, and the exit code the interpreter would give."""
    from contextgraft.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _limit(request)
    if "file_bytes" not in request:  # which bounds what can be noted, too
        Steps(request, log).install()
    sys.argv = ["contextgraft", *request["args"]]
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _limit(request: Request) -> None:
    if "file_bytes" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    if "memory" in request:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + request["memory"],) * 2)
    if "uid" in request:
        os.setgroups([])
        os.setgid(request["uid"])
        os.setuid(request["uid"])


def _nameless() -> int:
    handle, path = tempfile.mkstemp()
    Path(path).unlink()
    return handle


def _text(handle: int, close: bool) -> str:
    text = os.pread(handle, os.fstat(handle).st_size, 0).decode(errors="replace")
    if close:
        os.close(handle)
    return text


def _serve() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    stopped: dict[int, Child] = {}
    print("ready", file=channel, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "resume" in request:
            child = stopped.pop(request["resume"])
            child.request = request
            child.begun = time.monotonic()
            os.kill(child.pid, signal.SIGCONT)
        else:
            child = Child(request)
            child.fork()
        answer = child.wait()
        if answer["status"] is None:
            stopped[child.pid] = child
        print(json.dumps(answer), file=channel, flush=True)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    import torch

    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    gc.disable()
    import contextgraft.adapter.extract.extract
    import contextgraft.adapter.merge.merge
    import contextgraft.adapter.merge.plan
    import contextgraft.cli.commands.extract
    import contextgraft.cli.commands.merge
    import contextgraft.cli.progress  # noqa: F401

    gc.freeze()  # else children collect what they inherited, which copies all of its memory
    gc.enable()
    _serve()
