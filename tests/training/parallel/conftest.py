import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

JOBS = Path(__file__).with_name("jobs.py")
Run = Callable[..., list[Any]]


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
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        for environment in environments(world, per_node)
    ]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(world, job, **arguments): what each rank found out."""

    def run(world: int, job: str, **arguments: Any) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        command = [sys.executable, str(JOBS), job, json.dumps(arguments), str(out)]
        processes = together(command, world)
        said = [process.communicate(timeout=300)[1] for process in processes]
        failed = [text for process, text in zip(processes, said, strict=True) if process.returncode]
        assert not failed, failed[0]
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]

    return run
