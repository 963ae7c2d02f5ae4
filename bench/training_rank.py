"""One rank of the training benchmarks: `python bench/training_rank.py JOB ARGUMENTS OUT`."""

import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=10)
CLEAR = Path("/proc/self/clear_refs")
OUT_OF_MEMORY = 3  # exit status
LEARNING_RATE = 1e-4
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def ring(
    *, length: int, heads: int, kv_heads: int, size: int, layouts: list[str], runs: int
) -> dict[str, Any]:
    """Attention forward and backward in each layout, in alternation: seconds, bytes between nodes."""
    from contextgraft.training.parallel.ring import attention

    peers = {name: _peers(name, heads, kv_heads) for name in layouts}
    found: dict[str, Any] = {name: {"seconds": [], "counted": 0} for name in layouts}
    for run in range(runs + 1):  # the first run is a warm-up
        for name, cp in peers.items():
            held = len(cp.positions(length))
            shapes = [(1, h, held, size) for h in (heads, kv_heads, kv_heads)]
            q, k, v = (torch.randn(*shape, requires_grad=True) for shape in shapes)
            cp.traffic.between_nodes = 0
            dist.barrier()
            _mark(name, run)
            started = time.monotonic()
            out = attention(q, k, v, cp, size**-0.5)
            torch.autograd.backward(out, torch.ones_like(out))
            dist.barrier()
            if run:
                found[name]["seconds"].append(time.monotonic() - started)
                found[name]["counted"] = cp.traffic.between_nodes
    _mark("end", 0)
    return found


def _peers(name: str, heads: int, kv_heads: int) -> Any:
    from contextgraft.attention.kernels import KERNELS
    from contextgraft.training.parallel.communication import context_mesh, context_parallel
    from contextgraft.training.parallel.layout import LAYOUTS, topology

    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    layout = LAYOUTS[name](topology(WORLD, per_node), heads, kv_heads)
    mesh = context_mesh(layout, replicas=1, device="cpu", timeout=TIMEOUT)
    return context_parallel(layout, mesh, KERNELS["cpu"], ranks_per_node=per_node, timeout=TIMEOUT)


def _mark(name: str, run: int) -> None:
    """Let the parent process read the network devices while no rank sends anything."""
    if RANK == 0:
        print(json.dumps([name, run]), flush=True)
        sys.stdin.readline()
    dist.barrier()


def memory(
    *, config: dict[str, Any], length: int, folder: str, limit: int | None, chunked: bool
) -> dict[str, Any]:
    """One training step of a model on one sequence: peak memory above that of torch itself, seconds.

    `limit` is the number of bytes that the kernel grants beyond those of torch itself. Unless `chunked` all
    logits are computed at once.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.config.training import Recipe
    from contextgraft.rope import settings
    from contextgraft.training.data.batches import TokenBatch
    from contextgraft.training.parallel.engine import DistributedEngine
    from contextgraft.training.parallel.options import ParallelOptions
    from contextgraft.training.parallel.process_group import RankInfo

    launch = RankInfo(RANK, WORLD, RANK, WORLD)
    if RANK == 0:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    dist.barrier()
    base = open_model(Path(folder))
    engine = DistributedEngine(
        launch, torch.device("cpu"), ParallelOptions(layout="flat", timeout=TIMEOUT), base.config
    )
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "stages": [{"length": length, "steps": 1, "tokens": length}],
            "data": [{"kind": "repeat"}],
            "optimiser": {"learning_rate": 1e-3},
            "activation_checkpointing": True,
        }
    )
    gc.collect()
    before = _status("VmRSS")
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + limit,) * 2)
    CLEAR.write_text("5", encoding="ascii")  # VmHWM counts from here
    state = engine.build(recipe, base, settings.read(base.config))
    built = _status("VmHWM") - before
    if not chunked:
        state.model.chunk_tokens = length
    ids = torch.randint(0, config["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))
    dist.barrier()
    CLEAR.write_text("5", encoding="ascii")
    started = time.monotonic()
    result = engine.backward(state, TokenBatch(ids, torch.ones(ids.shape)), recipe)
    engine.clip(state, 1.0)
    state.optimiser.step()
    dist.barrier()
    seconds = time.monotonic() - started
    return {"built": built, "peak": _status("VmHWM") - before, "seconds": seconds, "loss": result.loss}


def _status(field: str) -> int:
    """Bytes, from the kernel."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def overhead(config: dict[str, Any], lengths: list[int], runs: int) -> dict[str, Any]:
    """Forward and backward of a model on one rank: the ring against plain attention, CPU seconds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from contextgraft.training.parallel import attention

    attention.register()
    cp = _peers("flat", config["num_attention_heads"], config["num_key_value_heads"])
    torch.manual_seed(0)
    plain, ringed = (
        LlamaForCausalLM(LlamaConfig(**config, attn_implementation=name)).train()
        for name in ("sdpa", attention.NAME)
    )
    found: dict[str, Any] = {}
    for length in lengths:
        plainly = {"input_ids": torch.randint(0, config["vocab_size"], (1, length)), "use_cache": False}
        together = {**plainly, "position_ids": cp.positions(length)[None], "context_parallel": cp}
        ratios, seconds = [], []
        for run in range(runs + 1):
            first, second = _processor(plain, plainly), _processor(ringed, together)
            if run:
                ratios.append(second / first)
                seconds.append(first)
        found[str(length)] = {"ratios": sorted(ratios), "plain": statistics.median(seconds)}
    return found


def _processor(model: Any, inputs: dict[str, Any]) -> float:
    started = time.process_time()
    torch.autograd.backward(model(**inputs).logits.square().mean())
    return time.process_time() - started


def step(base: str, batches: list[list[int]], runs: int) -> dict[str, Any]:
    """A whole training step: both engines on one rank against a bare loop of transformers, CPU seconds.

    `batches` are rows and tokens of a row. The three take turns, and begin with the same weights.
    """
    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.training.engine import SingleProcessEngine
    from contextgraft.training.parallel.engine import DistributedEngine
    from contextgraft.training.parallel.options import ParallelOptions
    from contextgraft.training.parallel.process_group import RankInfo

    model = open_model(Path(base))
    engines = {
        "one process": SingleProcessEngine(),
        "distributed, one rank": DistributedEngine(
            RankInfo(0, 1, 0, 1), torch.device("cpu"), ParallelOptions(timeout=TIMEOUT), model.config
        ),
    }
    found: dict[str, Any] = {}
    for rows, length in batches:
        ids = torch.randint(3, model.config["vocab_size"], (rows, length))
        programs = {name: _engine_step(engine, model, ids) for name, engine in engines.items()}
        programs["bare"] = _bare_step(base, ids)
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for run in range(runs + 1):  # the first run is a warm-up
            for name, program in programs.items():
                started = time.process_time()
                program()
                if run:
                    seconds[name].append(time.process_time() - started)
        bare = seconds.pop("bare")
        ratios = {
            name: sorted(ours / theirs for ours, theirs in zip(times, bare, strict=True))
            for name, times in seconds.items()
        }
        found[f"{rows} x {length}"] = {"ratios": ratios, "bare": statistics.median(bare)}
    return found


def _engine_step(engine: Any, model: Any, ids: torch.Tensor) -> Callable[[], None]:
    from contextgraft.config.training import Recipe
    from contextgraft.rope import settings
    from contextgraft.training.data.batches import TokenBatch

    rows, length = ids.shape
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "stages": [{"length": length, "steps": 1, "tokens": rows * length}],
            "data": [{"kind": "repeat"}],
            "optimiser": {"learning_rate": LEARNING_RATE},
        }
    )
    batch = TokenBatch(ids, torch.ones(ids.shape))
    state = engine.build(recipe, model, settings.read(model.config))

    def program() -> None:
        engine.backward(state, batch, recipe)
        engine.clip(state, 1.0)
        state.optimiser.step()

    return program


def _bare_step(base: str, ids: torch.Tensor) -> Callable[[], None]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def program() -> None:
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss.item()

    return program


JOBS = {"ring": ring, "memory": memory, "overhead": overhead, "step": step}


def main() -> None:
    """Connect to the other ranks, run the job, write its result."""
    job, arguments, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        result = JOBS[job](**json.loads(arguments))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error) or "bad_alloc" in str(error):
            os._exit(OUT_OF_MEMORY)
        raise
    Path(out, f"{RANK}.json").write_text(json.dumps(result), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
