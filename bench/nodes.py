"""Nodes that are network namespaces of this machine, with slow links between them: for root only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DEVICE = "ring0"
WIDE = "40gbit"  # inside a node
RANKS, PER_NODE = 4, 2
SOCKETS = ("net.ipv4.tcp_slow_start_after_idle=0", "net.ipv4.tcp_wmem=4096 65536 262144")


@dataclass(frozen=True)
class Place:
    """Where a rank runs: its namespace; the first rank's address is the meeting point."""

    namespace: str
    address: str


@dataclass(frozen=True)
class Wiring:
    """`own`: every rank has a link of its own to the other node; else the ranks of a node share one."""

    own: bool
    rate: str


def may() -> bool:
    """Whether this process may make namespaces."""
    return os.geteuid() == 0


@contextmanager
def nodes(wiring: Wiring) -> Iterator[list[Place]]:
    """Two nodes of two ranks; taken down again whatever happens."""
    names = [f"cg{os.getpid()}-{number}" for number in range(RANKS if wiring.own else 2)]
    switch = f"cg{os.getpid()}-switch"
    try:
        (_own if wiring.own else _shared)(names, switch, wiring.rate)
        for name in names:
            for setting in SOCKETS:
                _in(name, "sysctl", "-qw", setting)
        place = [rank if wiring.own else rank // PER_NODE for rank in range(RANKS)]
        yield [Place(names[number], _address(number)) for number in place]
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def between(namespace: str, wiring: Wiring) -> int:
    """Bytes that have left a namespace for the other node, headers and acknowledgements too."""
    if not wiring.own:
        return int(_in(namespace, "cat", f"/sys/class/net/{DEVICE}/statistics/tx_bytes"))
    for part in _in(namespace, "tc", "-s", "class", "show", "dev", DEVICE).split("class htb ")[1:]:
        if part.startswith("1:20"):
            return int(part.split("Sent ")[1].split()[0])
    raise RuntimeError("the limited class is gone")


def _shared(names: list[str], _: str, rate: str) -> None:
    for name in names:
        _make(name)
    _ip("link", "add", DEVICE, "netns", names[0], "type", "veth", "peer", "name", DEVICE, "netns", names[1])
    for number, name in enumerate(names):
        _up(name, number)
        limit = ("rate", rate, "burst", "256kb", "limit", "64mb")
        _in(name, "tc", "qdisc", "add", "dev", DEVICE, "root", "tbf", *limit)


def _own(names: list[str], switch: str, rate: str) -> None:
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
        _in(name, *tc, "1:10", "htb", "rate", WIDE, "burst", "1mb", "cburst", "1mb")
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
