import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

JOBS = Path(__file__).with_name("jobs.py")
COMMAND = [sys.executable, "-m", "contextgraft.cli", "train", "--threads", "1"]
Run = Callable[..., list[Any]]


class Said(NamedTuple):
    """What a rank wrote, and how it ended."""

    out: str
    err: str
    status: int


def environments(world: int, per_node: int | None = None) -> list[dict[str, str]]:
    """What torchrun tells each rank, on the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    per_node = per_node or world
    return [
        os.environ
        | {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(rank % per_node),
            "LOCAL_WORLD_SIZE": str(per_node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        for rank in range(world)
    ]


def together(command: list[str], world: int, per_node: int | None = None) -> list[subprocess.Popen[str]]:
    """The same command as every rank of a world, started."""
    return [start(command, environment) for environment in environments(world, per_node)]


def start(command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(processes: list[subprocess.Popen[str]], status: int = 0) -> list[Said]:
    """What the ranks said; all of them must end with this status."""
    said = [Said(*process.communicate(timeout=550), process.returncode) for process in processes]
    assert {rank.status for rank in said} == {status}, "\n".join(rank.err for rank in said)
    return said


def one_line(said: list[Said]) -> str:
    """The complaint, which one rank makes and all others leave to it."""
    lines = [line for rank in said for line in rank.err.splitlines() if "error:" in line]
    assert len(lines) == 1, lines
    assert not any("Traceback" in rank.err for rank in said)
    return lines[0]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(world, job, **arguments): what each rank found out."""

    def run(world: int, job: str, **arguments: Any) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        command = [sys.executable, str(JOBS), job, json.dumps(arguments), str(out)]
        finish(together(command, world))
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]

    return run
