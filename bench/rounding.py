"""What rounding to the target's dtype costs a graft: in its weights, and in what it predicts.

`python bench/rounding.py TARGET ADAPTER TEXT` merges to the nearest value, by chance, and in float32, the
reference. It prints the share of the delta in the stored weights, the noise added to it, and how far the
predictions on a text are from the reference's.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge


@dataclass(frozen=True)
class Row:
    """Share of the delta kept, noise as a share of it, mean divergence in nats with its error, agreement."""

    name: str
    kept: float
    noise: float
    divergence: float
    error: float
    agreement: float
    n: int


def in_float32(target: Path, out: Path) -> Path:
    """A copy of a model in one file of float32."""
    shutil.copytree(target, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = {n: t.float() for file in target.glob("*.safetensors") for n, t in load_file(file).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text()) | {"dtype": "float32", "torch_dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config))
    return out


def weights_of(manifest: dict[str, Any]) -> tuple[float, float]:
    """Share of the delta in the stored weights, and the norm of the rest of what changed over the delta's."""
    records = [record for record in manifest["tensors"].values() if record["applied"]]
    requested = sum(r["delta_norm"] ** 2 for r in records)
    inner = sum(r["kept"] * r["delta_norm"] ** 2 for r in records)
    left = sum(r["survived_norm"] ** 2 for r in records) - 2 * inner + requested
    return inner / requested, (max(left, 0.0) / requested) ** 0.5


@torch.no_grad()
def predictions(model: Path, windows: torch.Tensor) -> torch.Tensor:
    """Log probabilities [windows, length, vocabulary], computed in float32."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return torch.cat([loaded(window[None]).logits.log_softmax(-1) for window in windows])


def row(name: str, weights: tuple[float, float], found: torch.Tensor, reference: torch.Tensor) -> Row:
    """One line of the table; the error is that of the mean over windows, at 95 %."""
    nats = (reference.exp() * (reference - found)).sum(-1).mean(-1).tolist()
    agree = (reference.argmax(-1) == found.argmax(-1)).float().mean()
    spread = 1.96 * stdev(nats) / len(nats) ** 0.5
    return Row(name, *weights, mean(nats), spread, float(agree), reference.shape[0] * reference.shape[1])


def main() -> None:
    """Merge three times, evaluate four models, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("target", "adapter", "text"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    tokens = AutoTokenizer.from_pretrained(options.target)(options.text.read_text())["input_ids"]
    count = options.windows * options.length
    windows = torch.tensor(tokens[:count]).view(options.windows, options.length)
    scaled = [ScaledAdapter(open_adapter(options.adapter), options.scale)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        merge(
            plan_merge(scaled, in_float32(options.target, work / "target32")), work / "reference", threads=2
        )
        reference = predictions(work / "reference", windows)
        theta = merge(
            plan_merge([ScaledAdapter(scaled[0].adapter, 0.0)], options.target), work / "theta", threads=2
        )
        assert not any(record["applied"] for record in theta["tensors"].values())
        rows = [row("theta only", (0.0, 1.0), predictions(work / "theta", windows), reference)]
        for rounding in ("nearest", "stochastic"):
            manifest = merge(
                plan_merge(scaled, options.target, rounding=rounding), work / rounding, threads=2
            )
            found = predictions(work / rounding, windows)
            rows.append(row(rounding, weights_of(manifest), found, reference))
    what = f"{options.target.name} + {options.adapter.name}"
    head = (what, "delta kept", "noise", "KL, nats", "top-1 same", "n")
    print(f"| {' | '.join(head)} |\n|---|---|---|---|---|---|")
    for each in rows:
        print(
            f"| {each.name} | {each.kept:.2%} | {each.noise:.2%} | {each.divergence:.2e} ± {each.error:.1e} "
            f"| {each.agreement:.2%} | {each.n} |"
        )


if __name__ == "__main__":
    main()
