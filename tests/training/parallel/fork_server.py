"""A process that has imported everything `contextgraft train` needs, and forks a child for each start of it.

Starting Python and importing torch and transformers takes seconds; a fork takes milliseconds. The child runs
the same `python -m contextgraft.cli ...` or `python FILE ...` with its own arguments, environment and output
files.

Requests are lines of JSON on stdin, answered by the child's pid on stdout. The exit status appears in the
file `status` of the child's folder.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import constants

PRELOADED = (
    "contextgraft.cli.commands.train",
    "contextgraft.sources.hub.dataset",
    "contextgraft.training.parallel.engine",
    "contextgraft.training.trainer",
    "peft",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed._functional_collectives",
    "torch.distributed.tensor._ops",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
)
POLL = 0.01  # seconds


class Process:
    """A forked process, with the methods of Popen that tests use."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None while the process runs; negative for a signal."""
        if self.returncode is None and (self.folder / "status").exists():
            self.returncode = int((self.folder / "status").read_text())
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the process, however long it takes: pytest limits the whole test."""
        while self.poll() is None:
            time.sleep(POLL)
        assert self.returncode is not None
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """What the process wrote on stdout and stderr, when it has ended."""
        self.wait()
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def resume(self) -> None:
        """Let a paused process go on."""
        (self.folder / "go").touch()

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server's end in the tests; it ends with this process."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=pipe,
            stdout=pipe,
            text=True,
            start_new_session=True,
        )
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self._started = 0

    def start(
        self,
        command: list[str],
        environment: dict[str, str],
        *,
        file_bytes: int | None = None,
        pause: Path | None = None,
    ) -> Process:
        """Start `python ...` with these words.

        No file that it writes may exceed `file_bytes`. With `pause`, a run's work folder, it waits before the
        first step at which that holds a complete checkpoint, until `Process.resume` is called.
        """
        assert command[0] == sys.executable
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        request = {
            "words": command[1:],
            "environment": environment,
            "folder": str(folder),
            "directory": str(Path.cwd()),
            "file_bytes": file_bytes,
            "pause": None if pause is None else str(pause),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Process(int(self._server.stdout.readline()), folder)


@cache
def fork_server() -> ForkServer:
    """The server of this session."""
    return ForkServer()


def serve() -> None:
    """Fork a child for each request until stdin is closed; then kill those that still run."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    folders: dict[int, str] = {}
    ends: dict[int, int] = {}  # of the children: readable when one has ended
    pending = b""
    while True:
        ready = select.select([0, *ends], [], [])[0]
        for end in ready:
            if end in ends:
                _reap(folders, ends.pop(end))
                os.close(end)
        if 0 not in ready:
            continue
        received = os.read(0, 1 << 20)
        if not received:
            break
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _run(request)
            folders[pid] = request["folder"]
            ends[os.pidfd_open(pid)] = pid
            print(pid, flush=True)
    for pid in folders:
        os.kill(pid, signal.SIGKILL)


def _reap(folders: dict[int, str], pid: int) -> None:
    """Write the status of a child that has ended."""
    _, status = os.waitpid(pid, 0)
    folder = Path(folders.pop(pid))
    (folder / "status.partial").write_text(str(os.waitstatus_to_exitcode(status)))
    (folder / "status.partial").rename(folder / "status")


def _run(request: dict[str, Any]) -> NoReturn:
    """Become the requested process."""
    folder = Path(request["folder"])
    for descriptor, name in ((0, os.devnull), (1, folder / "out"), (2, folder / "err")):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(name, flags, 0o600), descriptor)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    importlib.reload(constants)  # the hub's client reads its environment variables when it is imported
    if request["file_bytes"] is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], hard))
    if request["pause"] is not None:
        _pause_at_checkpoint(Path(request["pause"]), folder / "go")
    code = 0
    try:
        _run_python(*request["words"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the end of the interpreter, which writes to every page that it shares


def _run_python(first: str, *words: str) -> None:
    """`python -m MODULE ...` or `python FILE ...`."""
    if first == "-m":
        module, *words_of_module = words
        sys.argv = [module, *words_of_module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *words]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def _pause_at_checkpoint(work: Path, go: Path) -> None:
    from contextgraft.training.data.batches import BatchSampler, TokenBatch
    from contextgraft.training.parallel.checkpoints import complete_checkpoints
    from contextgraft.training.schedule import TrainingStep
    from contextgraft.training.state import STATE_FILE

    original = BatchSampler.batch

    def batch(self: BatchSampler, step: TrainingStep) -> TokenBatch:
        while ((work / STATE_FILE).exists() or complete_checkpoints(work)) and not go.exists():
            time.sleep(POLL)
        return original(self, step)

    BatchSampler.batch = batch  # type: ignore[method-assign]


if __name__ == "__main__":
    serve()
