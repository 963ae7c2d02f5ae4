"""Training in many processes, measured on this machine: `python bench/training.py`, in parts by --part.

Links between nodes need network namespaces, which only root can make; everything else runs for anybody.
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
from nodes import PER_NODE, RANKS, Place, Wiring, between, may, nodes
from published import report as published

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
WIDE = 32768  # words of a model whose logits are most of what it would hold
FULL = 3  # how a rank ends that got no more memory
Parts = dict[str, Callable[[argparse.Namespace], dict[str, Any]]]


def links(options: argparse.Namespace) -> dict[str, Any]:
    """2 nodes x 2 ranks on limited links: seconds of forward and backward, bytes between nodes."""
    if not may():
        print("bench: links between nodes need network namespaces: run this part as root", file=sys.stderr)
        return {}
    wirings = {"a link each": Wiring(True, options.rate), "a link a node": Wiring(False, options.rate)}
    return {name: _ring(wiring, options.runs) for name, wiring in wirings.items()}


def _ring(wiring: Wiring, runs: int) -> dict[str, Any]:
    with nodes(wiring) as places, tempfile.TemporaryDirectory() as out:
        arguments = [json.dumps({**RING, "runs": runs}), out]
        ranks = [_start("ring", arguments, rank=rank, world=RANKS, places=places) for rank in range(RANKS)]
        marks: list[tuple[str, int, list[int]]] = []
        namespaces = sorted({place.namespace for place in places})
        while not marks or marks[-1][0] != "end":
            line = ranks[0].stdout.readline()
            if not line:
                break
            name, run = json.loads(line)
            time.sleep(0.3)  # what is in the queue of a link leaves it
            marks.append((name, run, [between(each, wiring) for each in namespaces]))
            ranks[0].stdin.write("\n")
            ranks[0].stdin.flush()
        _finish(ranks)
        found = [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(RANKS)]
    device = _device(marks)
    return {
        name: {
            "seconds": sorted(found[0][name]["seconds"]),
            "counted": [rank[name]["counted"] for rank in found],
            "device": device[name],
        }
        for name in RING["layouts"]
    }


def _device(marks: Sequence[tuple[str, int, list[int]]]) -> dict[str, list[int]]:
    """Of each layout: what each link carried in the run that it carried least in."""
    sent: dict[str, list[list[int]]] = {}
    for (name, run, before), (_, _, after) in pairwise(marks):
        if run:
            sent.setdefault(name, []).append([b - a for a, b in zip(before, after, strict=True)])
    return {name: min(runs, key=sum) for name, runs in sent.items()}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """A training step: one length on 1 to 8 ranks, lengths that grow with the ranks, logits whole or not."""
    each = options.length // 2
    sizes = sorted(
        {*((options.length, world) for world in WORLDS), *((each * world, world) for world in WORLDS)}
    )
    found = {f"{length} on {world}": _found(_step(length, world)) for length, world in sizes}
    for pieces in (True, False):
        name = f"{each} on 1, {WIDE} words, logits {'in pieces' if pieces else 'whole'}"
        found[name] = _found(_step(each, 1, vocabulary=WIDE, pieces=pieces))
    return found


def _found(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    row = {
        "MiB a rank": round(max(rank["peak"] for rank in ranks) / MIB),
        "MiB to build": round(max(rank["built"] for rank in ranks) / MIB),
        "seconds": round(ranks[0]["seconds"], 1),
        "loss": ranks[0]["loss"],
    }
    print(f"bench: memory, {len(ranks)} ranks: {row}", file=sys.stderr, flush=True)
    return row


def fits(options: argparse.Namespace) -> dict[str, Any]:
    """The longest sequence whose training step fits, when the kernel gives each rank so much and no more."""
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
    pieces: bool = True,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """What each rank of a training step found; nothing if it did not fit."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "config": {**MODEL, "vocab_size": vocabulary},
            "length": length,
            "folder": folder,
            "limit": limit,
            "pieces": pieces,
        }
        return _together("memory", arguments, world)


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """The ring on one rank against plain attention, in processor time of the whole model."""
    (found,) = _together("overhead", {"config": MODEL, "lengths": [1024, 4096], "runs": options.runs}, 1)
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


def _together(job: str, arguments: dict[str, Any], world: int) -> list[dict[str, Any]]:
    """What each rank of a world on this machine found; nothing if one got no more memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as out:
        words = [json.dumps(arguments), out]
        ranks = [_start(job, words, rank=rank, world=world, places=None, port=port) for rank in range(world)]
        if not _finish(ranks):
            return []
        return [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(world)]


def _start(
    job: str, words: list[str], *, rank: int, world: int, places: list[Place] | None, port: int = 29555
) -> Any:
    inside = ["ip", "netns", "exec", places[rank].namespace] if places else []
    per_node = PER_NODE if places else world
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(per_node),
        "MASTER_ADDR": places[0].address if places else "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "ring0" if places else "lo",
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # large tensors go back to the kernel when they are let go
    }
    command = [*inside, sys.executable, str(HERE / "training_rank.py"), job, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def _finish(ranks: Sequence[Any]) -> bool:
    """Wait for all; False, and the others ended, if one got no more memory."""
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):
            for rank in ranks:
                rank.kill()
        time.sleep(0.2)
    if any(rank.wait() == FULL for rank in ranks):
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
    "longest": longest,
}


def main() -> None:
    """Run the parts and print what they found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all")
    parser.add_argument("--runs", type=int, default=5, help="of what is timed; medians count")
    parser.add_argument("--rate", default="100mbit", help="of a link between nodes")
    parser.add_argument("--length", type=int, default=16384, help="of the sequence whose memory is measured")
    parser.add_argument("--limit", type=int, default=256, help="MiB that a rank gets to fit something in")
    parser.add_argument("--grain", type=int, default=1024, help="tokens a rank by which lengths grow to fit")
    parser.add_argument("--longest", type=int, default=65536, help="of the sequence trained end to end")
    parser.add_argument("--json", type=Path, help="write what was found here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces are taken down
    found = {}
    for part in options.part or PARTS:
        found[part] = PARTS[part](options)
        print(f"bench: {part} done", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=2)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
