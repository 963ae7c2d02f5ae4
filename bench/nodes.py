"""Two simulated nodes: network namespaces of this machine, with slow links between them. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DEVICE = "ring0"
FAST = "40gbit"  # within a node
RANKS, PER_NODE = 4, 2
SOCKETS = ("net.ipv4.tcp_slow_start_after_idle=0", "net.ipv4.tcp_wmem=4096 65536 262144")


@dataclass(frozen=True)
class RankHost:
    """The namespace and the address of a rank; the first rank's address is the rendezvous."""

    namespace: str
    address: str


@dataclass(frozen=True)
class Links:
    """Links between the nodes; `per_rank`: each rank has its own, else the ranks of a node share one."""

    per_rank: bool
    rate: str


def can_make_namespaces() -> bool:
    """Whether this process has the right to make network namespaces."""
    return os.geteuid() == 0


@contextmanager
def nodes(links: Links) -> Iterator[list[RankHost]]:
    """Two nodes of two ranks, removed when the block ends."""
    names = [f"cg{os.getpid()}-{number}" for number in range(RANKS if links.per_rank else 2)]
    switch = f"cg{os.getpid()}-switch"
    try:
        (_link_per_rank if links.per_rank else _shared_link)(names, switch, links.rate)
        for name in names:
            for setting in SOCKETS:
                _in(name, "sysctl", "-qw", setting)
        hosts = [rank if links.per_rank else rank // PER_NODE for rank in range(RANKS)]
        yield [RankHost(names[number], _address(number)) for number in hosts]
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def bytes_sent(namespace: str, links: Links) -> int:
    """Bytes sent from a namespace to the other node, including headers and acknowledgements."""
    if not links.per_rank:
        return int(_in(namespace, "cat", f"/sys/class/net/{DEVICE}/statistics/tx_bytes"))
    for section in _in(namespace, "tc", "-s", "class", "show", "dev", DEVICE).split("class htb ")[1:]:
        if section.startswith("1:20"):
            return int(section.split("Sent ")[1].split()[0])
    raise RuntimeError("tc shows no class 1:20, which limits the link")


def _shared_link(names: list[str], _: str, rate: str) -> None:
    for name in names:
        _make(name)
    _ip("link", "add", DEVICE, "netns", names[0], "type", "veth", "peer", "name", DEVICE, "netns", names[1])
    for number, name in enumerate(names):
        _up(name, number)
        limit = ("rate", rate, "burst", "256kb", "limit", "64mb")
        _in(name, "tc", "qdisc", "add", "dev", DEVICE, "root", "tbf", *limit)


def _link_per_rank(names: list[str], switch: str, rate: str) -> None:
    _make(switch)
    _in(switch, "ip", "link", "add", "br0", "type", "bridge")
    _in(switch, "ip", "link", "set", "br0", "up")
    for number, name in enumerate(names):
        _make(name)
        port = f"p{number}"
        _ip("link", "add", DEVICE, "netns", name, "type", "veth", "peer", "name", port, "netns", switch)
        _in(switch, "ip", "link", "set", port, "master", "br0", "up")
        _up(name, number)
        tc = ("tc", "class", "add", "dev", DEVICE, "parent", "1:", "classid")
        _in(name, "tc", "qdisc", "add", "dev", DEVICE, "root", "handle", "1:", "htb", "default", "10")
        _in(name, *tc, "1:10", "htb", "rate", FAST, "burst", "1mb", "cburst", "1mb")
        _in(name, *tc, "1:20", "htb", "rate", rate, "burst", "256kb", "cburst", "256kb")
        for other in range(RANKS):
            if other // PER_NODE != number // PER_NODE:
                match = ("match", "ip", "dst", f"{_address(other)}/32", "flowid", "1:20")
                start = ("tc", "filter", "add", "dev", DEVICE, "parent", "1:", "protocol", "ip", "u32")
                _in(name, *start, *match)


def _make(name: str) -> None:
    _ip("netns", "add", name)
    _in(name, "ip", "link", "set", "lo", "up")


def _up(name: str, number: int) -> None:
    _in(name, "ip", "addr", "add", f"{_address(number)}/24", "dev", DEVICE)
    _in(name, "ip", "link", "set", DEVICE, "up")


def _address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def _in(name: str, *command: str) -> str:
    return _ip("netns", "exec", name, *command)


def _ip(*command: str) -> str:
    return subprocess.run(["ip", *command], check=True, capture_output=True, text=True).stdout
