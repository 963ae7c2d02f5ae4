"""A server as a process of its own on loopback: started, waited for, and stopped whatever happens."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, NoReturn
from urllib.request import OpenerDirector, ProxyHandler, build_opener

from contextgraft.errors import ProcessEnded

HOST = "127.0.0.1"
POLL = 0.1  # seconds between two looks at a server that starts or stops
PATIENCE = 30.0  # seconds between SIGTERM and SIGKILL
REPLY = 10.0  # seconds for an answer to /health
LOG_LINES = 4  # the last ones, in an error
LOG_BYTES = 4000
# The system ends the server with SIGTERM when this process is killed, which then stops nothing itself.
ENDED_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")


def free_port() -> int:
    """A port of loopback that nothing uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """A server that has been started: its process group is that of its pid, its output goes to `log`."""

    def __init__(self, words: Sequence[str], log: IO[bytes]) -> None:
        self._program = words[0]
        self._log = log
        bound = ENDED_WITH_PARENT if shutil.which(ENDED_WITH_PARENT[0]) else ()
        try:
            self._process = subprocess.Popen(
                [*bound, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessEnded(
                "the server cannot be started", path=words[0], received=error.strerror,
                remedy="install it, or put its folder into PATH",
            ) from None  # fmt: skip

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group."""
        return self._process.pid

    def ended(self) -> str | None:
        """How it has ended, None if it runs.

        It stays a zombie until `stop`, so that no other process gets its id.
        """
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return None
        by_status = result.si_code == os.CLD_EXITED
        return f"exit status {result.si_status}" if by_status else signal.strsignal(result.si_status)

    def stop(self) -> None:
        """End it and every process of its group: SIGTERM, and after PATIENCE seconds SIGKILL."""
        try:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE
            while not self.ended() and time.monotonic() < deadline:
                time.sleep(POLL)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def failure(self, what: str, expected: str, received: str) -> ProcessEnded:
        """An error about the server with the last lines of its output."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - LOG_BYTES))
        lines = self._log.read().decode(errors="replace").split("\n")
        shown = [" ".join(line.split()) for line in lines if line.strip()][-LOG_LINES:]
        return ProcessEnded(
            what, path=self._program, expected=expected, received=received,
            remedy=f"its last lines: {' | '.join(shown) or 'none'}",
        )  # fmt: skip

    def wait_until_ready(self, port: int, name: str, seconds: float) -> None:
        """Return when it is healthy and serves the model `name`.

        ProcessEnded if it ends before that, or is not ready after `seconds`.
        """
        opener = build_opener(ProxyHandler({}))  # no proxy of the environment
        deadline = time.monotonic() + seconds
        while not serves(opener, port, name):
            if ended := self.ended():
                raise self.failure(
                    "the server ended before it was ready", f"model {name!r} at {HOST}:{port}", ended
                )
            if time.monotonic() > deadline:
                raise self.failure(
                    "the server did not become ready",
                    f"a healthy server within {seconds / 60:g} minutes (evaluation.backend.start_minutes)",
                    "none",
                )
            time.sleep(POLL)


def serves(opener: OpenerDirector, port: int, name: str) -> bool:
    """Whether the server at a port of loopback is healthy and has the model."""
    try:
        for path in ("health", "v1/models"):
            with opener.open(f"http://{HOST}:{port}/{path}", timeout=REPLY) as response:
                body: bytes = response.read()
        return name in {model["id"] for model in json.loads(body)["data"]}
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return False


@contextmanager
def running_server(
    words: Sequence[str], port: int, name: str, *, seconds: float, folder: Path
) -> Iterator[ServerProcess]:
    """A server that is ready, and is stopped at the end of the block, also after Ctrl-C and SIGTERM.

    `words` start it, at a `port` of loopback, with the model `name`; it may take `seconds` to become ready.
    Its output goes to a file without a name, in `folder`.
    """
    with exit_on_termination(), TemporaryFile(dir=folder) as log:
        server = ServerProcess(words, log)
        try:
            server.wait_until_ready(port, name, seconds)
            yield server
        finally:
            server.stop()


@contextmanager
def exit_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind this program as Ctrl-C does, so that it stops what it started.

    In the main thread only, and where the program does not handle the signal itself.
    """

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    unhandled = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in unhandled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)
