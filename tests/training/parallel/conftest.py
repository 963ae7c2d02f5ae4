import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .fork_server import Process, fork_server

RUN_JOB = Path(__file__).with_name("run_job.py")
COMMAND = [sys.executable, "-m", "contextgraft.cli", "train", "--threads", "1"]
Run = Callable[..., list[Any]]


def save_three_layers(folder: Path, **settings: Any) -> Path:
    """Save a small model of three layers in float32, of the `model_type` of the settings."""
    config = AutoConfig.for_model(
        vocab_size=67, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=32, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def check_losses(
    cases: list[dict[str, Any]], results: list[Any], bounds: dict[str, tuple[float, float]]
) -> None:
    """Each result's errors of the loss and of the gradients are within the bounds of its case's dtype."""
    for case, result in zip(cases, results, strict=True):
        loss, gradient = bounds[case["dtype"]]
        assert result["loss"] < loss, (case, result)
        assert result["gradient"] < gradient, (case, result)


class Output(NamedTuple):
    """What a process wrote, and its exit status."""

    out: str
    err: str
    status: int


def environments(world: int, per_node: int | None = None) -> list[dict[str, str]]:
    """The environment that torchrun gives each rank, on the loopback interface."""
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


def start_ranks(
    command: list[str], world: int, per_node: int | None = None, *, pause: Path | None = None
) -> list[Process]:
    """Start the same command as every rank of a world; `pause` is for rank 0, for which the others wait."""
    return [
        start(command, environment, pause=None if rank else pause)
        for rank, environment in enumerate(environments(world, per_node))
    ]


def start(command: list[str], environment: dict[str, str] | None = None, **options: Any) -> Process:
    """Start a command of Python, forked from a process that has imported what it needs."""
    environment = dict(os.environ) if environment is None else environment
    return fork_server().start(command, environment, **options)


def work_folder(out: Path) -> Path:
    """The folder of a run that has not finished."""
    return out.with_name(f".{out.name}.partial")


def wait_until(condition: Callable[[], object], processes: list[Process]) -> None:
    """Wait, however long it takes, while all processes run."""
    while not condition():
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.01)


def finish(processes: list[Process], status: int = 0) -> list[Output]:
    """The output of the processes; all of them must end with this status."""
    outputs = [Output(*process.communicate(), process.wait()) for process in processes]
    assert {rank.status for rank in outputs} == {status}, "\n".join(rank.err for rank in outputs)
    return outputs


def error_line(outputs: list[Output]) -> str:
    """The error, which exactly one rank reports, in one line."""
    lines = [line for rank in outputs for line in rank.err.splitlines() if "error:" in line]
    assert len(lines) == 1, lines
    assert not any("Traceback" in rank.err for rank in outputs)
    return lines[0]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(world, job, **arguments): the result of each rank; the job is one of `jobs.py` or `module`."""

    def run(world: int, job: str, *, module: str = "jobs", **arguments: Any) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        command = [sys.executable, str(RUN_JOB), module, job, json.dumps(arguments), str(out)]
        finish(start_ranks(command, world))
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]

    return run
