"""Training steps at long lengths: tokens a second, share of the peak (MFU), peak memory, a profile."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_checks import Check, GpuSession, Outcome

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe
from contextgraft.planning.flops import training_flops
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.rope import settings
from contextgraft.rope.model_class import quiet_transformers
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine, TrainingEngine
from contextgraft.training.parallel.devices import choose_dtype
from contextgraft.training.state import TrainState

GIB = 2**30
SHAPES: dict[str, dict[str, int]] = {  # SmolLM2-135M's, Llama-3.2-1B's, and one for processors
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 1024,
    },
}


class Step(NamedTuple):
    """Everything that a training step needs."""

    engine: TrainingEngine
    state: TrainState
    batch: TokenBatch
    recipe: Recipe

    def run(self) -> tuple[float, float]:
        """One step, as the trainer does it; returns the loss and the norm of the gradient."""
        result = self.engine.backward(self.state, self.batch, self.recipe)
        norm = self.engine.clip(self.state, 1.0)
        self.state.optimiser.step()
        return result.loss, norm


@quiet_transformers()
def _base(session: GpuSession, name: str) -> Path:
    """A model folder of this shape with random weights in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    out = session.work / f"base-{name}"
    if out.exists():
        return out
    torch.manual_seed(0)
    config: dict[str, Any] = {**SHAPES[name], "head_dim": 64 if name != "tiny" else 32}
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    with torch.device(session.device):
        model = LlamaForCausalLM(
            LlamaConfig(
                **config, max_position_embeddings=8192, tie_word_embeddings=True, rope_parameters=rope
            )
        )
    model.to(torch.bfloat16).save_pretrained(out)
    return out


def _step(base: Path, length: int, engine: TrainingEngine) -> Step:
    """A step of one sequence of random tokens, with recomputed activations and MLPs in 8 tiles."""
    model = open_model(base)
    recipe = Recipe.model_validate(
        {
            "name": "speed",
            "stages": [{"length": length, "steps": 1, "tokens": length}],
            "data": [{"kind": "repeat"}],
            "optimiser": {"learning_rate": 1e-5},
            "activation_checkpointing": True,
            "mlp_tiles": 8,
        }
    )
    rope = settings.read(model.config, base)
    state = engine.build(recipe, model, rope.extended(rope.theta, max(length, rope.max_positions)))
    ids = torch.randint(3, 900, (1, length), generator=torch.Generator().manual_seed(length))
    return Step(engine, state, TokenBatch(ids, torch.ones(1, length)), recipe)


def _engine(session: GpuSession) -> TrainingEngine:
    return SingleProcessEngine(session.device, choose_dtype(None, session.device))


def _measure(session: GpuSession, step: Step, base: Path, length: int, runs: int) -> dict[str, Any]:
    if session.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = session.seconds_of(step.run, runs)
    flops = training_flops(read_model_shape(base), length, frozen_weights=False, recompute=False)
    peak = session.peak_flops()
    return {
        "tokens_per_second": length / seconds,
        "seconds": seconds,
        "TFLOP/s": flops / seconds / 1e12,
        "MFU": flops / seconds / peak if peak else None,
        "peak_GiB": torch.cuda.max_memory_allocated() / GIB if session.is_gpu else None,
    }


def _speed(session: GpuSession, name: str, length: int, runs: int) -> Iterator[Outcome]:
    base = _base(session, name)
    step = _step(base, length, _engine(session))
    yield Outcome(f"{name}, {length} tokens", _measure(session, step, base, length, runs))


def small_model(session: GpuSession) -> Iterator[Outcome]:
    """A 135M model in one process at 32k and 64k tokens."""
    for length in (128, 256) if session.small else (32768, 65536):
        yield from _speed(session, "tiny" if session.small else "135M", length, 3)


def large_model(session: GpuSession) -> Iterator[Outcome]:
    """A 1B model in one process at 32k tokens."""
    yield from _speed(session, *(("tiny", 128) if session.small else ("1B", 32768)), 3)


def longest(session: GpuSession) -> Iterator[Outcome]:
    """A 1B model in one process at 128k tokens."""
    yield from _speed(session, *(("tiny", 512) if session.small else ("1B", 131072)), 1)


def distributed_engine(session: GpuSession) -> Iterator[Outcome]:
    """The engine of several GPUs (FSDP, ring) in one process: first loss, gradient norm, speed."""
    from contextgraft.training.parallel.engine import DistributedEngine
    from contextgraft.training.parallel.options import ParallelOptions
    from contextgraft.training.parallel.process_group import RankInfo, process_group

    name, length = ("tiny", 128) if session.small else ("135M", 32768)
    base, patience = _base(session, name), timedelta(seconds=60)
    expected = _step(base, length, _engine(session)).run()
    options = ParallelOptions(dtype=choose_dtype(None, session.device), timeout=patience)
    info = RankInfo(0, 1, 0, 1)
    with process_group(info, patience, session.device) as device:
        step = _step(base, length, DistributedEngine(info, device, options, open_model(base).config))
        (loss, loss_1), (norm, norm_1) = zip(step.run(), expected, strict=True)
        figures = {"loss_relative": abs(loss - loss_1) / loss_1, "norm_relative": abs(norm - norm_1) / norm_1}
        passed = figures["loss_relative"] < 0.01 and figures["norm_relative"] < 0.05
        figures |= _measure(session, step, base, length, 3)
    yield Outcome(f"{name}, {length} tokens, one process", figures, passed)


def profile(session: GpuSession) -> Iterator[Outcome]:
    """Where the time of a step goes; the table by operator is profile.txt."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    name, length = ("tiny", 128) if session.small else ("135M", 32768)
    step = _step(_base(session, name), length, _engine(session))
    step.run()
    session.synchronise()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if session.is_gpu else [])]
    with record(activities=activities) as recorded:
        begun = time.monotonic()
        step.run()
        session.synchronise()
        seconds = time.monotonic() - begun
    events = recorded.key_averages()
    attribute = "self_device_time_total" if session.is_gpu else "self_cpu_time_total"
    own = [event for event in events if str(event.device_type).endswith(session.device.upper())]  # kernels
    times = {event.key: getattr(event, attribute) / 1e6 for event in own}
    busy = sum(times.values())
    largest = sorted(times, key=lambda key: -times[key])[:5]
    waits = sum(event.count for event in events if "Synchronize" in event.key or event.key == "aten::item")
    table = events.table(sort_by=attribute, row_limit=40)
    (session.out / "profile.txt").write_text(table, encoding="utf-8")
    shares = {key[:60]: round(times[key] / busy, 3) for key in largest}
    figures = {"seconds": seconds, "device_busy": busy / seconds, "waits_of_the_host": waits}
    yield Outcome(f"{name}, {length} tokens", {**figures, "largest_shares": shares})


CHECKS = [
    Check("speed-135M", small_model, 25),
    Check("distributed-engine", distributed_engine, 15),
    Check("profile", profile, 10),
    Check("speed-1B", large_model, 25),
    Check("speed-1B-128k", longest, 60),
]
