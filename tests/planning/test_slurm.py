"""Requests at the limits of a cluster, and as resources of Snakemake's Slurm plugin."""

from typing import Any

import pytest

from contextgraft.config.cluster import Cluster
from contextgraft.planning.jobs import JobEstimate
from contextgraft.planning.slurm import SlurmRequest, request

GPUS = Cluster(gpus_per_node=8)


def test_minutes_are_three_times_the_estimate_and_ten() -> None:
    assert request(JobEstimate(seconds=600), GPUS) == SlurmRequest(mem_mb=4000, minutes=40)
    assert request(JobEstimate(seconds=601, memory=5.5e9, gpus=2), GPUS) == SlurmRequest(5500, 41, gpus=2)


def test_a_later_attempt_requests_more_up_to_the_limits() -> None:
    first = SlurmRequest(mem_mb=4000, minutes=30)
    assert first.at_attempt(1, GPUS) == first
    assert first.at_attempt(2, GPUS) == SlurmRequest(mem_mb=8000, minutes=60)
    assert first.at_attempt(10**6, GPUS) == SlurmRequest(mem_mb=500_000, minutes=GPUS.longest)


def test_no_request_is_larger_than_a_node_or_longer_than_the_partition_allows() -> None:
    small = Cluster(gpus_per_node=8, node_memory=64, longest=60)
    limited = request(JobEstimate(seconds=1e6, memory=1e12, gpus=16, nodes=2), small)
    assert limited == SlurmRequest(mem_mb=64_000, minutes=60, gpus=16, nodes=2)


@pytest.mark.parametrize(
    ("requested", "resources"),
    [
        (SlurmRequest(4000, 10), {"mem_mb": 4000, "runtime": 10}),
        (SlurmRequest(4000, 10, gpus=2), {"mem_mb": 4000, "runtime": 10, "gpu": 2}),
        (
            SlurmRequest(9000, 10, gpus=16, nodes=2),
            {
                "mem_mb": 9000,
                "runtime": 10,
                "nodes": 2,
                "tasks": 2,
                "tasks_per_gpu": 0,
                "gres": "gpu:8",
                "mpi": "srun",
            },
        ),
    ],
)
def test_resources_of_the_slurm_plugin(requested: SlurmRequest, resources: dict[str, Any]) -> None:
    assert {name: value for name, value in requested.resources().items() if value is not None} == resources
