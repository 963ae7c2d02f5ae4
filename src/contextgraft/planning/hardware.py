"""The hardware that costs are computed for: one kind of device, its memory, and the links between nodes."""

from dataclasses import dataclass
from typing import Self

from contextgraft.config.cluster import Cluster

GB = 1e9
H100_FLOPS = 989e12  # dense bfloat16 operations a second (SXM, data sheet)
H100_BANDWIDTH = 3.35e12  # bytes a second
H100_MEMORY = 80e9  # bytes, in decimal units: the card itself has 80 GiB
UTILISATION = 0.4  # share of the peak that large matrix products reach in practice
LINK_BANDWIDTH = 50e9  # bytes a second: 400 Gbit
NODE_SIZE = 8
CPU_BANDWIDTH = 2e10  # bytes a second that processors read from main memory: assumed


@dataclass(frozen=True)
class Hardware:
    """Devices of one kind.

    `flops` are operations a second of one device at its peak, `utilisation` is the share of them that is
    reached, `bandwidth` (bytes a second) and `memory` (bytes) are those of one device. A node has `node_size`
    devices and `links` links to other nodes, each of `link_bandwidth` bytes a second.
    """

    flops: float = H100_FLOPS
    utilisation: float = UTILISATION
    bandwidth: float = H100_BANDWIDTH
    memory: float = H100_MEMORY
    node_size: int = NODE_SIZE
    link_bandwidth: float = LINK_BANDWIDTH
    links: int = 1

    @classmethod
    def from_cluster(cls, cluster: Cluster, threads: int) -> Self:
        """One GPU of a study's cluster or, without GPUs, the processor threads of one job.

        The speeds in a study's configuration are those that are reached, so `utilisation` is 1.
        """
        if cluster.gpus_per_node:
            return cls(
                flops=cluster.gpu_teraflops * 1e12,
                utilisation=1.0,
                bandwidth=cluster.gpu_bandwidth * 1e12,
                memory=cluster.gpu_memory * GB,
                node_size=cluster.gpus_per_node,
            )
        return cls(
            flops=threads * cluster.cpu_gigaflops * 1e9,
            utilisation=1.0,
            bandwidth=CPU_BANDWIDTH,
            memory=cluster.node_memory * GB,
            node_size=1,
        )

    def compute_hours(self, flops: float) -> float:
        """Device hours of this many operations."""
        return flops / (self.flops * self.utilisation) / 3600

    def read_hours(self, count: float) -> float:
        """Device hours of reading this many bytes from the device's memory."""
        return count / self.bandwidth / 3600
