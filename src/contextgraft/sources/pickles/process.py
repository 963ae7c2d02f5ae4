"""Start the process that reads pickles, and turn its failures into errors of one line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contextgraft.errors import CheckpointError, OutputError, PickleRefused

CHILD = "contextgraft.sources.pickles.child"
MEMORY_FACTOR = 2  # files of before torch 1.6 are read into memory, and one tensor is copied
BYTES_PER_SECOND = 10_000_000  # the slowest disk that is waited for
BASE_SECONDS = 120
NO_TEMPORARY_FOLDER = "No usable temporary directory found"  # the text of Python's tempfile


@dataclass(frozen=True)
class PickleFile:
    """One file to convert to `out`; `prefix` is put before names of tensors that lack it."""

    path: Path
    out: Path
    prefix: str = ""


@dataclass(frozen=True)
class ProcessLimits:
    """What the process may use: bytes of memory beyond torch's own, seconds, bytes of its output."""

    memory: int
    seconds: int
    file_bytes: int


def limits_for(files: Sequence[PickleFile]) -> ProcessLimits:
    """Limits that follow from the sizes of the files."""
    sizes = [file.path.stat().st_size for file in files]
    largest = max(sizes)
    seconds = BASE_SECONDS + sum(sizes) // BYTES_PER_SECOND
    return ProcessLimits(MEMORY_FACTOR * largest, seconds, 2 * largest + (1 << 20))


def convert_files(
    files: Sequence[PickleFile], *, drop_tied_head: bool = False, limits: ProcessLimits | None = None
) -> None:
    """Write the tensors of each pickle as safetensors.

    Tensors that share memory are written one by one; with `drop_tied_head`, an output layer that shares the
    input embeddings is left out. A file with anything but tensors raises PickleRefused or CheckpointError;
    none of its code runs. A process that exceeds its limits is killed.
    """
    limits = limits or limits_for(files)
    path = files[0].path
    request = {
        "outputs": [
            {"path": str(file.path.absolute()), "out": str(file.out.absolute()), "prefix": file.prefix}
            for file in files
        ],
        "drop_tied_head": drop_tied_head,
        **asdict(limits),
    }
    # -P: nothing is imported from the current folder
    command = [sys.executable, "-P", "-m", CHILD]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, check=False,
            timeout=limits.seconds, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _stopped(path, f"more than {limits.seconds} seconds") from None
    if done.returncode != 0 and NO_TEMPORARY_FOLDER in done.stderr:  # libraries look for one when imported
        raise OutputError(
            "cannot be written", path=files[0].out, received="no folder where temporary files can be written",
            remedy="free disk space, raise the limit on file sizes (`ulimit -f`), or set TMPDIR",
        )  # fmt: skip
    if done.returncode != 0:
        raise _stopped(path, f"exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    path = Path(answer.get("path", path))
    problem = answer.get("error")
    if problem == "memory":
        raise _stopped(path, f"more than {limits.memory:,} bytes of memory")
    if problem == "output":
        raise OutputError(answer["received"])
    if problem == "code":
        raise PickleRefused(
            "contains code, which was not run", path=path, expected="tensors alone",
            received=answer["received"], remedy="do not trust this file; look for safetensors",
        )  # fmt: skip
    if problem is not None:
        raise CheckpointError(
            problem, path=path, expected="tensors by name", received=answer["received"],
            remedy=answer.get("remedy") or "fetch the file again, or convert it where it was made",
        )  # fmt: skip


def _stopped(path: Path, received: str) -> CheckpointError:
    return CheckpointError(
        "could not be converted: the process that read it was stopped", path=path,
        received=received, remedy="the file is damaged or hostile, or this machine has too little memory",
    )  # fmt: skip
