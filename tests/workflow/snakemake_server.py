"""Runs Snakemake many times in forked children of one process, which spares each the four seconds of imports.

As a program it reads one JSON object per line (folder, arguments), and answers with one (code, output).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


class SnakemakeServer:
    """A process that has imported Snakemake; `prefix` is put before its command line."""

    def __init__(self, environment: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`snakemake ARGUMENTS` in a folder; its two streams are joined."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(folder), *arguments]), file=self.process.stdin, flush=True)
        code, output = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(["snakemake", *arguments], code, output)

    def stop(self) -> None:
        """End the process; it ends by itself when its input is closed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Answer requests until the input ends."""
    import snakemake.cli
    import snakemake.dag
    import snakemake.workflow

    import contextgraft.workflow  # noqa: F401

    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if not child:
                os.chdir(folder)
                with open(os.devnull) as nothing:  # noqa: PTH123
                    os.dup2(nothing.fileno(), 0)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.argv = ["snakemake", *arguments]
                snakemake.cli.main(arguments)  # ends by sys.exit
                os._exit(1)
            _, status = os.waitpid(child, 0)
            output.seek(0)
            said = output.read().decode()
        print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)


if __name__ == "__main__":
    serve()
