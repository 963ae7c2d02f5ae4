"""What each step of a study asks of a cluster: memory, minutes, GPUs and nodes, from the model's shape alone.

Minutes are an upper estimate: the work at the stated speeds, times three, plus ten for starting up. Where an
attempt did not suffice, the next asks for more. The figures were measured (docs/benchmarks.md);
docs/cluster.md has the formulas.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from contextgraft.config.cluster import Cluster
from contextgraft.config.training import Stage
from contextgraft.errors import ConfigError
from contextgraft.planning.model_shape import STORED, Shape

GB = 1e9
LEAST = 4000  # MB: Python, torch, and tiles that stream through; extract and merge take a tenth of it
MARGIN = 3.0
START = 10  # minutes
EXTRACT = 22e-9  # processor seconds a weight for all ranks to 128: 18.7 s for a layer of 70B
MERGEKIT = 3.6e-10  # processor seconds a weight and column of its smaller side: 693 s for the 1B shape
MERGE = 2e-9  # processor seconds a changed weight
TRAINED = 16  # bytes a weight in training: master, gradient and two moments in float32
SLURM_WORDS = "mem_mb", "runtime", "gpu", "nodes", "tasks", "tasks_per_gpu", "gres", "mpi"
FILL = 0.8  # part of a GPU's memory that can be planned with


@dataclass(frozen=True)
class Request:
    """What one job asks for; memory is that of one node, GPUs are those of all its nodes."""

    mem_mb: int
    minutes: int
    gpus: int = 0
    nodes: int = 1

    def again(self, attempt: int, cluster: Cluster) -> "Request":
        """The same at a later attempt: more time and memory, up to what the cluster has."""
        return replace(
            self,
            mem_mb=max(self.mem_mb, min(self.mem_mb * attempt, round(cluster.node_memory * 1000))),
            minutes=max(self.minutes, min(self.minutes * attempt, cluster.longest)),
        )


def request(cluster: Cluster, seconds: float, memory: float = 0.0, gpus: int = 0, nodes: int = 1) -> Request:
    """Seconds of work at full speed and bytes of memory as a request, within the limits of the cluster."""
    megabytes = max(LEAST, ceil(memory / 1e6))
    minutes = START + ceil(MARGIN * seconds / 60)
    return Request(
        mem_mb=min(megabytes, round(cluster.node_memory * 1000)),
        minutes=min(minutes, cluster.longest),
        gpus=gpus,
        nodes=nodes,
    )


def fetching(shape: Shape, cluster: Cluster) -> float:
    """Seconds of a download, and of reading it once more for its digests."""
    return shape.size / GB * (1 / cluster.network + 1 / cluster.disk)


def extracting(shape: Shape, cluster: Cluster, ranks: Sequence[int], threads: int) -> float:
    """Seconds of all ranks from one pass: both models read once, a weight costs the same to rank 128."""
    work = EXTRACT * shape.matrices * max(1.0, max(ranks) / 128) / threads
    return work + 2 * shape.size / GB / cluster.disk


def by_mergekit(shape: Shape, cluster: Cluster, ranks: Sequence[int], threads: int) -> float:
    """Seconds of mergekit's extraction: every matrix decomposed whole, anew for each rank, then measured."""
    sides = [*shape.linear.values()] * shape.layers + [(shape.vocabulary, shape.hidden)]
    work = MERGEKIT * sum(rows * columns * min(rows, columns) for rows, columns in sides) / threads
    return len(ranks) * (work + 4 * shape.size / GB / cluster.disk)


def merging(shape: Shape, cluster: Cluster, threads: int) -> float:
    """Seconds of one graft, or its verification: each model is read or written once beside the sum."""
    return MERGE * shape.matrices / threads + 2 * shape.size / GB / cluster.disk


def fetch(shape: Shape, cluster: Cluster) -> Request:
    """What one download asks for."""
    return request(cluster, fetching(shape, cluster))


def extract(shape: Shape, cluster: Cluster, ranks: Sequence[int], threads: int) -> Request:
    """What one extraction of all ranks asks for."""
    return request(cluster, extracting(shape, cluster, ranks, threads))


def extract_by_mergekit(shape: Shape, cluster: Cluster, ranks: Sequence[int], threads: int) -> Request:
    """What mergekit's extraction asks for: copies of the largest matrix in float32, and the adapter."""
    memory = LEAST * 1e6 + 5 * 4 * shape.vocabulary * shape.hidden + 0.1 * shape.size
    return request(cluster, by_mergekit(shape, cluster, ranks, threads), memory)


class Extraction(NamedTuple):
    """Of a backend: seconds at full speed, and what one job asks for."""

    seconds: Callable[[Shape, Cluster, Sequence[int], int], float]
    request: Callable[[Shape, Cluster, Sequence[int], int], Request]


EXTRACTIONS: Mapping[str, Extraction] = {
    "contextgraft": Extraction(extracting, extract),
    "mergekit": Extraction(by_mergekit, extract_by_mergekit),
}


def merge(shape: Shape, cluster: Cluster, threads: int) -> Request:
    """What one graft, or its verification, asks for."""
    return request(cluster, merging(shape, cluster, threads))


def powers(count: int) -> int:
    """The next power of two: how many GPUs share a model's heads evenly."""
    return 1 << max(count - 1, 0).bit_length()


def cards(memory: float, cluster: Cluster) -> tuple[int, int]:
    """GPUs and nodes that hold so many bytes: a power of two in one node, else whole nodes."""
    count = powers(ceil(memory / (FILL * cluster.gpu_memory * GB)))
    if count <= cluster.gpus_per_node:
        return count, 1
    nodes = ceil(count / cluster.gpus_per_node)
    return nodes * cluster.gpus_per_node, nodes


def prefill(shape: Shape, length: int) -> float:
    """Operations of reading one prompt: 2 P T for the weights, 2 layers d T^2 for causal attention."""
    return 2.0 * shape.parameters * length + 2.0 * shape.layers * shape.hidden * length**2


@dataclass(frozen=True)
class Questions:
    """What one job asks: so many prompts of each length (tokens), of so many models one after another."""

    prompts: Mapping[int, int]
    models: int


def evaluate(shape: Shape, cluster: Cluster, asked: Questions, threads: int) -> Request:
    """Prefill of every prompt, on the GPUs of one node or, in float32, on processors; answers are short."""
    work = asked.models * sum(count * prefill(shape, length) for length, count in asked.prompts.items())
    longest = max(asked.prompts)
    cache = shape.kv_token * longest
    reading = asked.models * shape.size / GB / cluster.disk
    if not cluster.gpus_per_node:
        memory = 2 * (shape.size + cache) + LEAST * 1e6
        return request(cluster, reading + work / (threads * cluster.cpu_gigaflops * 1e9), memory)
    gpus, nodes = cards(shape.size + cache, cluster)
    if nodes > 1:
        raise ConfigError(
            f"prompts of {longest} tokens need the memory of {gpus} GPUs",
            expected=f"at most {cluster.gpus_per_node}, the GPUs of one node (cluster.gpus_per_node)",
            received=f"{(shape.size + cache) / GB:.0f} GB to hold, {cluster.gpu_memory:g} GB a GPU",
            remedy="ask shorter prompts, or say what the nodes really have",
        )
    return request(
        cluster,
        reading + work / (gpus * cluster.gpu_teraflops * 1e12),
        shape.size + 2 * LEAST * 1e6,
        gpus=gpus,
    )


def activations(shape: Shape, length: int) -> float:
    """Bytes of one sequence in training: each block's input is kept, one block is recomputed at a time."""
    block = 12 * shape.hidden + 3 * shape.intermediate
    return float(STORED * length * (shape.layers * shape.hidden + block))


def training_work(shape: Shape, stages: Sequence[Stage]) -> float:
    """Operations of a run: forward, forward again to recompute activations, backward for twice as much."""
    return sum(
        4.0 * stage.steps * stage.tokens / stage.length * prefill(shape, stage.length) for stage in stages
    )


def train(shape: Shape, cluster: Cluster, stages: Sequence[Stage], threads: int) -> Request:
    """A whole training run, its longest sequence spread over as many GPUs as its memory needs."""
    state = float(TRAINED * shape.parameters)
    held = state + activations(shape, max(stage.length for stage in stages))
    work = training_work(shape, stages)
    if not cluster.gpus_per_node:
        return request(cluster, work / (threads * cluster.cpu_gigaflops * 1e9), 2 * held + 2 * LEAST * 1e6)
    gpus, nodes = cards(held, cluster)
    seconds = work / (gpus * cluster.gpu_teraflops * 1e12)
    return request(cluster, seconds, state / nodes + 4 * LEAST * 1e6, gpus=gpus, nodes=nodes)


def slurm(asked: Request) -> dict[str, int | str | None]:
    """The request in the words of Snakemake's Slurm plugin; what is None is not said.

    A job of one node asks for its GPUs in all. A job of several asks for them by node, and for one task a
    node, which the rule itself starts with `srun`: that is what `mpi` says.
    """
    several = asked.nodes > 1
    values = (
        asked.mem_mb,
        asked.minutes,
        None if several else asked.gpus or None,
        asked.nodes if several else None,
        asked.nodes if several else None,
        0 if several and asked.gpus else None,
        f"gpu:{asked.gpus // asked.nodes}" if several and asked.gpus else None,
        "srun" if several else None,
    )
    return dict(zip(SLURM_WORDS, values, strict=True))
