"""A process that has imported the command line and none of the large packages; it forks a child for each run.

Starting Python and importing click and pydantic takes half a second; a fork takes milliseconds. Requests are
lines of JSON on stdin (folder, arguments), answers lines of JSON on stdout.
"""

import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from contextgraft.cli import commands

PRELOADED = (
    "click",
    "contextgraft.cli.main",
    *(f"contextgraft.cli.commands.{module.name}" for module in pkgutil.iter_modules(commands.__path__)),
    "contextgraft.cli.plan_tables",
    "contextgraft.planning.study",
    "importlib.metadata",
    "pydantic",
    "yaml",
)
LARGE = ("torch", "transformers", "lm_eval", "numpy", "pyarrow", "duckdb")


class Run(NamedTuple):
    """How a run of `contextgraft` ended, and the large packages that it imported."""

    returncode: int
    stdout: str
    stderr: str
    imported: list[str]


class ForkServer:
    """The server's end in the tests; it ends with this process, which closes its input."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, folder: Path) -> Run:
        """`contextgraft ARGUMENTS` in a folder."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(folder), *arguments]), file=self.process.stdin, flush=True)
        return Run(*json.loads(self.process.stdout.readline()))


@cache
def fork_server() -> ForkServer:
    """The server of this session."""
    return ForkServer()


def serve() -> None:
    """Answer requests until the input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert not large_packages()
    gc.freeze()
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as found,
        ):
            child = os.fork()
            if not child:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.chdir(folder)
                run(arguments, found.fileno())
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err, found):
                file.seek(0)
                texts.append(file.read().decode())
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts[:2], json.loads(texts[2])]), flush=True)


def large_packages() -> list[str]:
    """Those of the large packages that are imported."""
    return [name for name in LARGE if name in sys.modules]


def run(arguments: list[str], found: int) -> NoReturn:
    """Become `contextgraft ARGUMENTS`."""
    from contextgraft.cli.main import main

    sys.argv = ["contextgraft", *arguments]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(found, json.dumps(large_packages()).encode())
    os._exit(code)


if __name__ == "__main__":
    serve()
