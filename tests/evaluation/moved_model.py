"""A model made of another one: its fine-tune, or a donor of its base."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def moved(folder: Path, out: Path, seed: int, **changes: Any) -> Path:
    """A copy of a model with other weights, other values in its config, and its tokenizer if it has one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.05)
    model.save_pretrained(out)
    for file in folder.glob("tokenizer*.json"):
        (out / file.name).write_bytes(file.read_bytes())
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **changes}))
    return out
