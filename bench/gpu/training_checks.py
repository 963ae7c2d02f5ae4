"""`contextgraft train`: the demo's donor on both devices, LoRA, a resumed run; memory of stages."""

import json
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from gpu_checks import Check, GpuSession, Outcome


def write_recipe(session: GpuSession, name: str, **changes: Any) -> Path:
    """The demo's recipe with fewer steps and these changes."""
    recipe = yaml.safe_load((session.config / "donor.yaml").read_text(encoding="utf-8"))
    steps, lengths = (2, (128, 256)) if session.small else (12, (256, 1024))
    tokens = 4 * max(lengths)
    recipe["stages"] = [{"length": length, "steps": steps, "tokens": tokens} for length in lengths]
    recipe |= {"theta": "progressive", "replay": {"share": 0.0}, **changes}
    for source in recipe["data"]:
        source |= {key: str(session.config / source[key]) for key in ("format", "haystack") if key in source}
    path = session.work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def _train(session: GpuSession, recipe: Path, name: str, device: str, *options: object) -> list[float]:
    out, base = session.work / name, session.demo / "base"
    session.run_verb("train", "--config", recipe, "--base", base, "--out", out, "--device", device, *options)
    return losses(out)


def _difference(result: list[float], reference: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(result, reference, strict=True))


def donor(session: GpuSession) -> Iterator[Outcome]:
    """Losses of every step: float32 within 1 % of the processor, the device's own dtype within 5 %."""
    recipe = write_recipe(session, "donor")
    begun = time.monotonic()
    reference = _train(session, recipe, "donor-cpu", "cpu")
    processor = time.monotonic() - begun
    for dtype, bound in (("float32", 0.01), ("bfloat16", 0.05)):
        begun = time.monotonic()
        result = _train(session, recipe, f"donor-{dtype}", session.device, "--dtype", dtype)
        figures = {"worst_relative": _difference(result, reference), "first": result[0], "last": result[-1]}
        figures |= {"seconds": time.monotonic() - begun, "seconds_cpu": processor}
        passed = len(result) == len(reference) and figures["worst_relative"] < bound
        yield Outcome(f"{dtype} on {session.device} against float32 on cpu", figures, passed)


def _against_processor(session: GpuSession, name: str, subject: str, **changes: Any) -> Outcome:
    """Losses in the device's own dtype within 5 % of the processor."""
    recipe = write_recipe(session, name, **changes)
    reference = _train(session, recipe, f"{name}-cpu", "cpu")
    worst = _difference(_train(session, recipe, f"{name}-device", session.device), reference)
    return Outcome(subject, {"worst_relative": worst}, worst < 0.05)


def lora(session: GpuSession) -> Iterator[Outcome]:
    """LoRA with recomputed activations and tiled MLPs."""
    changes = {"lora": {"rank": 8, "alpha": 8}, "activation_checkpointing": True, "mlp_tiles": 2}
    yield _against_processor(session, "lora", "LoRA, recomputed, tiled", **changes)


def offloaded(session: GpuSession) -> Iterator[Outcome]:
    """Attention kept; layer inputs and the optimiser's moments in host memory."""
    changes = {"activation_checkpointing": "selective", "activation_offloading": True}
    optimiser = {"learning_rate": 1e-3, "offload": True}
    yield _against_processor(session, "offloaded", "selective, offloaded", optimiser=optimiser, **changes)


def documents(session: GpuSession) -> Iterator[Outcome]:
    """Packed documents that do not see each other."""
    words = (session.config / "haystack_train.txt").read_text(encoding="utf-8").split()
    texts = [" ".join(words[start : start + 20 + start % 300]) for start in range(0, len(words), 200)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (session.work / "documents.jsonl").write_text(lines, encoding="utf-8")
    source = {"kind": "documents", "files": ["documents.jsonl"], "mask": "block_causal"}
    yield _against_processor(session, "documents", f"{len(texts)} documents", data=[source])


def resumed(session: GpuSession) -> Iterator[Outcome]:
    """Stopped by SIGTERM and resumed: losses within 2 % of an uninterrupted run."""
    recipe, out = write_recipe(session, "resumed"), session.work / "resumed"
    dtype = ("--dtype", "float32")
    reference = _train(session, recipe, "uninterrupted", session.device, *dtype)
    words = ("train", "--config", recipe, "--base", session.demo / "base", "--out", out)
    words = (*words, "--device", session.device, *dtype)
    process = session.start_verb(*words, "--checkpoint-seconds", 0)
    state, limit = session.work / f".{out.name}.partial" / "state.safetensors", time.monotonic() + 60
    while process.poll() is None and not state.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    if process.returncode:  # it had not finished: the same command resumes it
        text += session.run_verb(*words)
    worst = _difference(losses(out), reference)
    figures = {"stopped": process.returncode, "resumed": "resuming after step" in text}
    one, other = (folder / "model.safetensors" for folder in (session.work / "uninterrupted", out))
    same = one.read_bytes() == other.read_bytes()
    yield Outcome(
        "stopped and resumed", {**figures, "worst_relative": worst, "same_bytes": same}, worst < 0.02
    )


def stages(session: GpuSession) -> Iterator[Outcome]:
    """At each stage only its own model is alive."""
    from contextgraft.training.engine import SingleProcessEngine, TrainingEngine
    from contextgraft.training.parallel.devices import choose_dtype
    from contextgraft.training.trainer import train

    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class CountingEngine(SingleProcessEngine):
        def build(self, *arguments: Any) -> Any:
            state = super().build(*arguments)
            models.append(weakref.ref(state.model))
            return state

        def backward(self, *arguments: Any) -> Any:
            alive.append(sum(model() is not None for model in models))
            return super().backward(*arguments)

    engine: TrainingEngine = CountingEngine(session.device, choose_dtype(None, session.device))
    recipe = write_recipe(session, "stages")
    train(recipe, session.demo / "base", session.work / "stages", engine=engine)
    yield Outcome(f"{len(models)} stages", {"models_alive": max(alive)}, max(alive) == 1)


CHECKS = [Check("train", donor, 30)]
LATER_CHECKS = [
    Check("train-stages", stages, 8),
    Check("train-lora", lora, 20),
    Check("train-offloaded", offloaded, 20),
    Check("train-documents", documents, 20),
    Check("train-resumed", resumed, 25),
]
