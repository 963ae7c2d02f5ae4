"""The hardware of a cluster: the numbers from which minutes, memory and GPUs of a job are computed."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from contextgraft.config.base import Frozen

Positive = Annotated[float, Field(ge=0.0001, le=1e12)]


class Cluster(Frozen):
    """Nodes, GPUs and speeds; the defaults are one machine without GPUs."""

    gpus_per_node: Annotated[NonNegativeInt, Field(le=10**6)] = Field(
        default=0, description="GPUs of a node; 0: all jobs run on CPUs"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="device of evaluation; cuda needs gpus_per_node"
    )
    gpu_memory: Positive = Field(default=80.0, description="GB of one GPU")
    gpu_teraflops: Positive = Field(
        default=390.0, description="sustained speed of one GPU: about 40 % of the peak of its data sheet"
    )
    gpu_bandwidth: Positive = Field(default=3.35, description="TB/s of one GPU's memory")
    cpu_gigaflops: Positive = Field(default=30.0, description="sustained speed of one CPU thread")
    node_memory: Positive = Field(
        default=500.0, description="GB of main memory of a node; the most that a job requests"
    )
    disk: Positive = Field(
        default=0.5, description="GB/s that one job reads or writes on the shared file system"
    )
    network: Positive = Field(default=0.05, description="GB/s of a download")
    longest: Annotated[PositiveInt, Field(le=10**9)] = Field(
        default=1440, description="time limit of the partition in minutes"
    )
