"""Runs a program many times in forked children of one process, which spares each run seconds of imports.

Tests, Snakemake's jobs and scripts find the script CLIENT under the program's name. It hands its arguments,
environment, folder and open files to the server, and ends with the exit code of the child that the server
forks for it. SIGINT and SIGTERM are passed on to the child; if the script is killed, so is the child.

With PAUSE in its environment, a child can be interrupted while it publishes: if the file that PAUSE names
exists, the next child that renames an output takes it away, and pauses before or after that. The file says
which of both, and after a space, what file ends the pause; without one it ends by itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

PAUSE = "PAUSE_OF_CONTEXTGRAFT_TESTS"  # another prefix than options, which jobs do not inherit
PAUSE_SECONDS = 3


@dataclass(frozen=True)
class Program:
    """Where a program begins, and what is imported, or called (`module:function`), before it is forked.

    `exits` if functions registered for its end must run.
    """

    module: str
    preloaded: tuple[str, ...]
    exits: bool = False


PROGRAMS = {
    "contextgraft": Program(
        "contextgraft.cli.main",
        (
            "contextgraft.adapter.analysis.alignment",
            "contextgraft.adapter.extract.extract",
            "contextgraft.adapter.merge.merge",
            "contextgraft.adapter.verify.graft",
            "contextgraft.cli.evaluate.table",
            "contextgraft.cli.progress",
            "contextgraft.evaluation.backends.transformers",
            "contextgraft.evaluation.run",
            "contextgraft.evaluation.suites",
            "contextgraft.report.build",
            "contextgraft.report.folder",
            "contextgraft.sources.hub.dataset",
            "contextgraft.training.trainer",
            "pandas",
            "pyarrow.dataset",
            "pyarrow.pandas_compat",
            "torch._dynamo",
            "transformers.models.auto.tokenization_auto",
            "transformers.models.llama.modeling_llama",
            "transformers.tokenization_utils_tokenizers",
        ),
    ),
    "snakemake": Program(
        "snakemake.cli",
        (
            "contextgraft.workflow",
            "requests",
            "smart_open",
            "snakemake.assets",
            "snakemake.cli:get_argument_parser",  # which looks for plugins
            "snakemake.dag",
            "snakemake.profiles",
            "snakemake.report",
            "snakemake.storage",
            "snakemake.workflow",
            "snakemake_executor_plugin_slurm_jobstep",
            "yte",
        ),
        exits=True,
    ),
    "dvc": Program("dvc.cli", ("dvc.cli.parser", "dvc.repo", "dvc.repo.index"), exits=True),
}
CLIENT = """#!{python} -ISs
import json, os, signal, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    child = int(server.recv(16) or b"0")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    server.sendall(b"ready")
    sys.exit(int(server.recv(16) or b"1"))
"""


class CommandServer:
    """The server's end in the tests; it ends with this process, which closes its input.

    The script `python` runs code or a module in such a child. `prefix` is put before the server's command
    line; `python` is the interpreter that the program starts.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str] = os.environ,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="command-"))  # short: a socket is made in it
        address = str(self.folder / "socket")
        self.command = self.folder / "bin" / name
        self.python = self.folder / "python"
        self.command.parent.mkdir()
        for script in (self.command, self.python):
            script.write_text(CLIENT.format(python=sys.executable, address=address, name=script.name))
            script.chmod(0o755)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, __file__, name, address, python],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    @property
    def bin(self) -> Path:
        """The folder of the script, for PATH."""
        return self.command.parent


@cache
def command_server(name: str) -> CommandServer:
    """One server of a program for all tests of a process."""
    return CommandServer(name)


def serve(program: Program, address: str) -> NoReturn:
    """Fork a child for each connection until the input ends."""
    children: list[int] = []
    for entry in (program.module, *program.preloaded):
        name, _, function = entry.partition(":")
        module = importlib.import_module(name)
        if function:
            getattr(module, function)()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                os._exit(0)
            connection, _ = listener.accept()
            child = os.fork()
            if not child:
                answer(program, connection)
            connection.close()
            children = [one for one in (*children, child) if os.waitpid(one, os.WNOHANG) == (0, 0)]


def answer(program: Program, connection: socket.socket) -> NoReturn:
    """Run the command of one connection in a child, and report its exit code."""
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        name, arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    child = os.fork()
    if not child:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        if PAUSE in environment:
            pause_at_publishing(Path(environment[PAUSE]))
        run(program, name, arguments)
    connection.sendall(str(child).encode())
    ended = os.pidfd_open(child)
    killed = not connection.recv(16)  # the end of the connection is that of the script
    if killed or ended not in select.select([ended, connection.fileno()], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def pause_at_publishing(mark: Path) -> None:
    """Pause before or after the rename of an output, as the file `mark` says, once for each such file."""
    moment, go = "", ""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal moment, go
        if event == "os.rename" and is_publishing(*map(os.fsdecode, arguments[:2])):
            with suppress(FileNotFoundError):
                moment, _, go = mark.read_text().partition(" ")
                mark.unlink()  # FileNotFoundError if another job was quicker
                if moment == "before":
                    pause(go)
        elif moment == "after":
            moment = ""
            pause(go)

    sys.addaudithook(audit)


def pause(go: str) -> None:
    """Wait until the file `go` exists, or, if none is named, for some seconds."""
    if not go:
        time.sleep(PAUSE_SECONDS)
    while go and not Path(go).exists():
        time.sleep(0.01)


def is_publishing(source: str, destination: str) -> bool:
    """Whether a rename puts a complete file or folder in its place."""
    inside = any(part.endswith((".partial", ".journal")) for part in Path(destination).parts)
    return source.endswith(".partial") and not inside


def run_python() -> None:
    """`python -c CODE ...`, and `python -m MODULE ...`, with or without `-P`."""
    option, code, *words = sys.argv[2:] if sys.argv[1] == "-P" else sys.argv[1:]
    sys.argv = [option, *words]
    if option == "-m":
        runpy.run_module(code, run_name="__main__")
        return
    assert option == "-c"
    sys.path[0] = ""
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def run(program: Program, name: str, arguments: list[str]) -> NoReturn:
    """Become the program, or Python, with these arguments."""
    sys.argv = [name, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # this process may have been started without
    code = 0
    try:
        code = int((run_python if name == "python" else sys.modules[program.module].main)() or 0)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    if program.exits:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the end of the interpreter, which takes longer than most commands


if __name__ == "__main__":
    own, place, sys.executable = sys.argv[1:]
    serve(PROGRAMS[own], place)
