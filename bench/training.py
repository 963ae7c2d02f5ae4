"""Distributed training measured on this machine: `python bench/training.py`; --part selects what to measure.

Links between nodes need network namespaces, which only root can make; everything else needs no rights.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from nodes import PER_NODE, RANKS, Links, RankHost, bytes_sent, can_make_namespaces, nodes
from packing import packing
from published import report as published
from training_start import start

HERE = Path(__file__).parent
RING = {"length": 4096, "heads": 8, "kv_heads": 8, "size": 64, "layouts": ["flat", "double", "usp", "torch"]}
MODEL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
MIB = 2**20
WORLDS = (1, 2, 4, 8)
BATCHES = [[16, 256], [2, 2048]]  # rows, tokens of a row
WIDE = 32768  # vocabulary with which logits use most of the memory
OUT_OF_MEMORY = 3  # exit status of a rank
Parts = dict[str, Callable[[argparse.Namespace], dict[str, Any]]]


def links(options: argparse.Namespace) -> dict[str, Any]:
    """2 nodes x 2 ranks on limited links: seconds of forward and backward, bytes between nodes."""
    if not can_make_namespaces():
        print("bench: skipped links: network namespaces need root", file=sys.stderr)
        return {}
    setups = {"a link each": Links(True, options.rate), "a link a node": Links(False, options.rate)}
    return {name: _ring(links, options.runs) for name, links in setups.items()}


def _ring(links: Links, runs: int) -> dict[str, Any]:
    with nodes(links) as hosts, tempfile.TemporaryDirectory() as out:
        arguments = [json.dumps({**RING, "runs": runs}), out]
        ranks = [_start("ring", arguments, rank=rank, world=RANKS, hosts=hosts) for rank in range(RANKS)]
        marks: list[tuple[str, int, list[int]]] = []
        namespaces = sorted({host.namespace for host in hosts})
        while not marks or marks[-1][0] != "end":
            line = ranks[0].stdout.readline()
            if not line:
                break
            name, run = json.loads(line)
            time.sleep(0.3)  # let the queues of the links drain
            marks.append((name, run, [bytes_sent(namespace, links) for namespace in namespaces]))
            ranks[0].stdin.write("\n")
            ranks[0].stdin.flush()
        _finish(ranks)
        results = [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(RANKS)]
    device = _device(marks)
    return {
        name: {
            "seconds": sorted(results[0][name]["seconds"]),
            "counted": [rank[name]["counted"] for rank in results],
            "device": device[name],
        }
        for name in RING["layouts"]
    }


def _device(marks: Sequence[tuple[str, int, list[int]]]) -> dict[str, list[int]]:
    """By layout: the bytes on each link, in the run with the fewest."""
    sent: dict[str, list[list[int]]] = {}
    for (name, run, before), (_, _, after) in pairwise(marks):
        if run:
            sent.setdefault(name, []).append([b - a for a, b in zip(before, after, strict=True)])
    return {name: min(runs, key=sum) for name, runs in sent.items()}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Memory of a training step: one length on 1 to 8 ranks, growing lengths, logits in chunks or whole."""
    each = options.length // 2
    sizes = sorted(
        {*((options.length, world) for world in WORLDS), *((each * world, world) for world in WORLDS)}
    )
    found = {f"{length} on {world}": _summary(_step(length, world)) for length, world in sizes}
    for chunked in (True, False):
        name = f"{each} on 1, {WIDE} words, logits {'in chunks' if chunked else 'whole'}"
        found[name] = _summary(_step(each, 1, vocabulary=WIDE, chunked=chunked))
    return found


def _summary(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    row = {
        "MiB a rank": round(max(rank["peak"] for rank in ranks) / MIB),
        "MiB to build": round(max(rank["built"] for rank in ranks) / MIB),
        "seconds": round(ranks[0]["seconds"], 1),
        "loss": ranks[0]["loss"],
    }
    print(f"bench: memory, {len(ranks)} ranks: {row}", file=sys.stderr, flush=True)
    return row


def fits(options: argparse.Namespace) -> dict[str, Any]:
    """The longest sequence whose training step fits into a memory limit per rank."""
    found: dict[str, Any] = {}
    for world in WORLDS:
        fitting, grain = 0, options.grain * world
        while _step(fitting + grain, world, limit=options.limit * MIB):
            fitting += grain
        found[str(world)] = {"fits": fitting, "does not": fitting + grain}
        print(f"bench: fits, {fitting} tokens on {world} ranks", file=sys.stderr, flush=True)
    return found


def _step(
    length: int,
    world: int,
    *,
    vocabulary: int = MODEL["vocab_size"],
    chunked: bool = True,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The result of each rank of one training step; an empty list if it did not fit in memory."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "config": {**MODEL, "vocab_size": vocabulary},
            "length": length,
            "folder": folder,
            "limit": limit,
            "chunked": chunked,
        }
        return _run_ranks("memory", arguments, world)


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """The ring on one rank against plain attention: CPU time of the whole model."""
    (found,) = _run_ranks("overhead", {"config": MODEL, "lengths": [1024, 4096], "runs": options.runs}, 1)
    return dict(found)


def step(options: argparse.Namespace) -> dict[str, Any]:
    """A training step of each engine on one rank against a bare loop of transformers: CPU time."""
    with tempfile.TemporaryDirectory() as name:
        base = str(Path(name, "base"))
        program = str(Path(sys.executable).with_name("contextgraft"))
        subprocess.run([program, "fetch", "demo:base", "--out", base], check=True)
        (found,) = _run_ranks("step", {"base": base, "batches": BATCHES, "runs": options.runs}, 1)
    return dict(found)


def longest(options: argparse.Namespace) -> dict[str, Any]:
    """One step of `contextgraft train` at a long length, in four processes, to the published model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = [str(Path(sys.executable).with_name("contextgraft"))]
        subprocess.run([*program, "fetch", "demo:base", "--out", str(folder / "base")], check=True)
        recipe = {
            "name": "longest",
            "stages": [{"length": options.longest, "steps": 1, "tokens": options.longest}],
            "theta": "progressive",
            "data": [{"kind": "repeat", "first": 20}],
            "optimiser": {"learning_rate": 1e-4},
            "activation_checkpointing": True,
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        files = ["--config", folder / "recipe.yaml", "--base", folder / "base", "--out", folder / "out"]
        torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "4", "--no-python"]
        command = [*torchrun, *program, "train", *map(str, files), "--threads", "1", "--patience", "3000"]
        started = time.monotonic()
        subprocess.run(command, check=True, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"})
        seconds = time.monotonic() - started
        lines = (folder / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {"length": options.longest, "seconds": round(seconds), "last": json.loads(lines[-1])}


def _run_ranks(job: str, arguments: dict[str, Any], world: int) -> list[dict[str, Any]]:
    """The result of each rank on this machine; an empty list if one ran out of memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as out:
        words = [json.dumps(arguments), out]
        ranks = [_start(job, words, rank=rank, world=world, hosts=None, port=port) for rank in range(world)]
        if not _finish(ranks):
            return []
        return [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(world)]


def _start(
    job: str, words: list[str], *, rank: int, world: int, hosts: list[RankHost] | None, port: int = 29555
) -> Any:
    inside = ["ip", "netns", "exec", hosts[rank].namespace] if hosts else []
    per_node = PER_NODE if hosts else world
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(per_node),
        "MASTER_ADDR": hosts[0].address if hosts else "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "ring0" if hosts else "lo",
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # freed tensors go back to the kernel
    }
    command = [*inside, sys.executable, str(HERE / "training_rank.py"), job, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def _finish(ranks: Sequence[Any]) -> bool:
    """Wait for all ranks; False if one ran out of memory, and then the others are killed."""
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):
            for rank in ranks:
                rank.kill()
        time.sleep(0.2)
    if any(rank.wait() == OUT_OF_MEMORY for rank in ranks):
        return False
    if any(rank.returncode for rank in ranks):
        raise SystemExit("bench: a rank failed")
    return True


PARTS: Parts = {
    "published": published,
    "links": links,
    "memory": memory,
    "fits": fits,
    "overhead": overhead,
    "step": step,
    "packing": packing,
    "start": start,
    "longest": longest,
}


def main() -> None:
    """Run the selected parts and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all")
    parser.add_argument("--runs", type=int, default=5, help="number of timed runs")
    parser.add_argument("--rate", default="100mbit", help="bandwidth of a link between nodes")
    parser.add_argument(
        "--length", type=int, default=16384, help="tokens of the sequence whose memory is measured"
    )
    parser.add_argument(
        "--limit", type=int, default=256, help="memory limit of a rank in MiB, for the part fits"
    )
    parser.add_argument(
        "--grain", type=int, default=1024, help="tokens per rank by which lengths grow, for the part fits"
    )
    parser.add_argument(
        "--longest", type=int, default=65536, help="tokens of the sequence trained end to end"
    )
    parser.add_argument("--shape", default="llama3-8b", help="shape of the model, for the part start")
    parser.add_argument("--layers", type=int, help="layers of it, default: all")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces are removed
    found = {}
    for part in options.part or PARTS:
        found[part] = PARTS[part](options)
        print(f"bench: {part} done", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=2)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
