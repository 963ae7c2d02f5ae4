"""Extract, merge, verify and evaluate on the device and on the processor."""

from collections.abc import Iterator
from pathlib import Path

import torch
from gpu_checks import Check, GpuSession, Outcome, relative_error
from safetensors.torch import load_file
from training_checks import write_recipe

RANK = 8


def _donor(session: GpuSession) -> Path:
    """A donor that another check trained, or a new one."""
    donor = session.work / "donor-float32"
    if not donor.exists():
        recipe, base = write_recipe(session, "donor"), session.demo / "base"
        session.run_verb("train", "--config", recipe, "--base", base, "--out", donor, "--device", "cpu")
    return donor


def _make(session: GpuSession, device: str, adapter: Path | None = None) -> tuple[Path, Path]:
    """The adapter extracted, and a fine-tune merged with it or with another adapter, on a device."""
    folder = session.work / f"on-{device}-{len(list(session.work.glob('on-*')))}"
    base, target = session.demo / "base", session.demo / "facts"
    if adapter is None:
        words = ("extract", "--base", base, "--donor", _donor(session), "--rank", RANK, "--device", device)
        session.run_verb(*words, "--out", folder / "adapters")
        adapter = folder / "adapters" / f"r{RANK}"
    graft = folder / "graft"
    session.run_verb("merge", "--adapter", adapter, "--target", target, "--device", device, "--out", graft)
    return adapter, graft


def graft(session: GpuSession) -> Iterator[Outcome]:
    """Products of the factors within 1 %; merged weights, of one adapter, within 0.4 % of the norm."""
    adapter, processor_graft = _make(session, "cpu")
    device_adapter, device_graft = _make(session, session.device)
    _, same_adapter_graft = _make(session, session.device, adapter)
    session.data |= {"adapter": device_adapter, "graft": device_graft}
    ours, reference = (load_file(path / "adapter_model.safetensors") for path in (device_adapter, adapter))
    products = max(relative_error(_product(ours, name), _product(reference, name)) for name in _factors(ours))
    yield Outcome("extract: products of the factors", {"worst_relative": products}, products < 1e-2)
    merged, expected = (
        load_file(path / "model.safetensors") for path in (same_adapter_graft, processor_graft)
    )
    weights = max(relative_error(merged[name], expected[name]) for name in expected)
    same = all(torch.equal(merged[name], expected[name]) for name in expected)
    yield Outcome("merge: weights", {"worst_relative": weights, "same_bytes": same}, weights < 4e-3)


def _factors(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in tensors if ".lora_A." in name]


def _product(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return tensors[name.replace(".lora_A.", ".lora_B.")].double() @ tensors[name].double()


def verify(session: GpuSession) -> Iterator[Outcome]:
    """What the device merged is verified where it was made, and by a process without a GPU."""
    if "graft" not in session.data:
        adapter, graft_folder = _make(session, session.device)
        session.data |= {"adapter": adapter, "graft": graft_folder}
    words = (
        "verify",
        session.data["graft"],
        "--target",
        session.demo / "facts",
        "--adapter",
        session.data["adapter"],
    )
    text = session.run_verb(*words)
    yield Outcome(f"on the machine with {session.device}", {"last_line": text.strip().splitlines()[-1]}, True)
    process = session.start_verb(*words, hide_gpu=True)
    text = process.communicate(timeout=120)[0]
    figures = {"exit_code": process.returncode, "last_line": text.strip().splitlines()[-1][:160]}
    yield Outcome("without a GPU", figures, process.returncode == 0)


def evaluate(session: GpuSession) -> Iterator[Outcome]:
    """The demo's base answers the same needles: float32 equal for 95 %, bfloat16 as a figure."""
    import pyarrow.parquet as pq

    samples = 1 if session.small else 4
    words = ("evaluate", session.demo / "base", "--suite", "needle", "--lengths", 128, "--samples", samples)
    words = (*words, "--format", session.config / "needle_base.yaml", "--seed", 7)
    runs = [("cpu", "float32"), (session.device, "float32"), (session.device, "bfloat16")]
    outputs: list[list[str]] = []
    for device, dtype in runs:
        out = session.work / f"samples-{len(outputs)}-{dtype}.parquet"
        session.run_verb(*words, "--device", device, "--dtype", dtype, "--out", out)
        outputs.append(pq.read_table(out)["output"].to_pylist())
    for (_, dtype), texts in zip(runs[1:], outputs[1:], strict=True):
        same = sum(a == b for a, b in zip(texts, outputs[0], strict=True))
        passed = same >= 0.95 * len(texts) if dtype == "float32" else None
        yield Outcome(f"{dtype} against float32 on cpu", {"same": same, "of": len(texts)}, passed)


CHECKS = [Check("graft", graft, 20), Check("verify", verify, 15), Check("evaluate", evaluate, 25)]
