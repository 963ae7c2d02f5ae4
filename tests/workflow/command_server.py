"""Runs `contextgraft` many times in forked children of one process, which spares each the seconds of imports.

Snakemake's jobs find the script CLIENT as `contextgraft`. It hands its arguments, environment, folder and
open files to the server, and ends with the exit code of the child that the server forks for it. The studies
through Slurm run the program itself.
"""

import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

PRELOADED = (
    "contextgraft.adapter.analysis.alignment",
    "contextgraft.adapter.extract.extract",
    "contextgraft.adapter.merge.merge",
    "contextgraft.adapter.verify.graft",
    "contextgraft.cli.evaluate_table",
    "contextgraft.cli.progress",
    "contextgraft.evaluation.run",
    "contextgraft.evaluation.suites",
    "contextgraft.report.build",
    "contextgraft.report.folder",
    "contextgraft.sources.hub.dataset",
    "contextgraft.training.trainer",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
)
CLIENT = """#!{python} -ISs
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(16) or b"1"))
"""


class CommandServer:
    """The server's end in the tests; it ends with this process, which closes its input."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="command-"))  # short: a socket is made in it
        address = str(self.folder / "socket")
        client = self.folder / "bin" / "contextgraft"
        client.parent.mkdir()
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        self.process = subprocess.Popen(
            [sys.executable, __file__, address],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    @property
    def bin(self) -> Path:
        """The folder of the script, for PATH."""
        return self.folder / "bin"


def serve(address: str) -> NoReturn:
    """Fork a child for each connection until the input ends."""
    children: list[int] = []
    for name in PRELOADED:
        importlib.import_module(name)
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
                answer(connection)
            connection.close()
            children = [one for one in (*children, child) if os.waitpid(one, os.WNOHANG) == (0, 0)]


def answer(connection: socket.socket) -> NoReturn:
    """Run the command of one connection in a child, and report its exit code."""
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    child = os.fork()
    if not child:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        run(arguments, folder, environment)
    _, status = os.waitpid(child, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Become `contextgraft ARGUMENTS`."""
    from contextgraft.cli.main import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["contextgraft", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the end of the interpreter, which takes longer than most commands


if __name__ == "__main__":
    serve(sys.argv[1])
