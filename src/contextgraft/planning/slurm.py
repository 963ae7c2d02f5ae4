"""What jobs request from Slurm: the estimates of a study's jobs within the limits of its cluster.

Minutes are an upper estimate: three times the estimated work, and ten for starting up. A job that fails is
submitted again with more of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from contextgraft.config.cluster import Cluster
from contextgraft.config.resolved_study import ResolvedStudy
from contextgraft.planning.jobs import JobEstimate, study_jobs
from contextgraft.planning.shapes.model_shape import ModelShape

MARGIN = 3.0
START = 10  # minutes
SLURM_RESOURCES = "mem_mb", "runtime", "gpu", "nodes", "tasks", "tasks_per_gpu", "gres", "mpi"


@dataclass(frozen=True)
class SlurmRequest:
    """Resources of one job; memory is that of one node, GPUs are those of all its nodes."""

    mem_mb: int
    minutes: int
    gpus: int = 0
    nodes: int = 1

    def at_attempt(self, attempt: int, cluster: Cluster) -> "SlurmRequest":
        """The request of a later attempt: more time and memory, up to what the cluster has."""
        return replace(
            self,
            mem_mb=max(self.mem_mb, min(self.mem_mb * attempt, round(cluster.node_memory * 1000))),
            minutes=max(self.minutes, min(self.minutes * attempt, cluster.longest)),
        )

    def resources(self) -> dict[str, int | str | None]:
        """The request as resources of Snakemake's Slurm plugin; None where a resource is not set.

        A job of one node requests its GPUs in all. A job of several requests them by node, and one task for
        each node, which the rule itself starts with `srun`: that is what `mpi` says.
        """
        several = self.nodes > 1
        values = (
            self.mem_mb,
            self.minutes,
            None if several else self.gpus or None,
            self.nodes if several else None,
            self.nodes if several else None,
            0 if several and self.gpus else None,
            f"gpu:{self.gpus // self.nodes}" if several and self.gpus else None,
            "srun" if several else None,
        )
        return dict(zip(SLURM_RESOURCES, values, strict=True))


@dataclass(frozen=True)
class StudyRequests:
    """Requests of a study's jobs: by rule, and of training by model."""

    cluster: Cluster
    rules: Mapping[str, SlurmRequest]
    training: Mapping[str, SlurmRequest]

    def launch(self, model: str, processes: int | None) -> tuple[int, int]:
        """Nodes of a training, and processes on each: one for each GPU unless the study names a number."""
        request = self.training[model]
        return request.nodes, processes or max(1, request.gpus // request.nodes)

    def resources(self, rule: str, model: str | None, attempt: int) -> dict[str, int | str | None]:
        """Resources of a rule's job at an attempt; `model` is the one that rule `train` trains."""
        first = self.training[model] if model is not None and rule == "train" else self.rules[rule]
        return first.at_attempt(attempt, self.cluster).resources()


def request(job: JobEstimate, cluster: Cluster) -> SlurmRequest:
    """The request of a job, within the limits of the cluster."""
    return SlurmRequest(
        mem_mb=min(ceil(job.memory / 1e6), round(cluster.node_memory * 1000)),
        minutes=min(START + ceil(MARGIN * job.seconds / 60), cluster.longest),
        gpus=job.gpus,
        nodes=job.nodes,
    )


def study_requests(study: ResolvedStudy, shape: ModelShape) -> StudyRequests:
    """All requests of a study; ConfigError where no node of its cluster can hold what is evaluated."""
    jobs = study_jobs(study, shape)
    cluster = study.settings.cluster
    return StudyRequests(
        cluster,
        {rule: request(job, cluster) for rule, job in jobs.rules.items()},
        {model: request(job, cluster) for model, job in jobs.training.items()},
    )
