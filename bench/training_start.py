"""A run of an 8B's shape from its command to its first step: seconds and memory."""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from checkpoints import byte_tokenizer
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

LENGTH = 128
FIRST_STEP = "step 1/"
SHAPES = "contextgraft.planning.shapes"


def start(options: Namespace) -> dict[str, Any]:
    """LoRA on random weights of a shape, so that the frozen weights are bfloat16; stopped after one step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write_base(folder / "base", options.shape, options.layers)
        recipe = {
            "name": "start",
            "stages": [{"length": LENGTH, "steps": 2, "tokens": LENGTH}],
            "data": [{"kind": "repeat"}],
            "optimiser": {"learning_rate": 1e-4},
            "lora": {"rank": 16, "alpha": 32},
            "trainable": ["linear"],
            "dtype": "bfloat16",
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        inputs = ["--config", folder / "recipe.yaml", "--base", folder / "base", "--out", folder / "out"]
        program = [str(Path(sys.executable).with_name("contextgraft")), "train", *inputs]
        return {"shape": options.shape, "bytes of weights": size, **_until_first_step(program)}


def _until_first_step(command: list[Any]) -> dict[str, Any]:
    """Seconds until each line of the run, and the largest resident memory, up to its first step."""
    started = time.monotonic()
    seconds = {}
    with subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            seconds[line.strip()] = round(time.monotonic() - started, 1)
            if line.startswith(FIRST_STEP):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                process.kill()
                peak = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
                return {"seconds": seconds, "peak MiB": peak // 1024}
    raise SystemExit(f"bench: the run ended before its first step: {' / '.join(seconds)}")


def _write_base(folder: Path, shape: str, layers: int | None) -> int:
    """Random weights in bfloat16, one file for each layer and one for the rest; returns their bytes."""
    described = json.loads(files(SHAPES).joinpath(f"{shape}.json").read_text(encoding="utf-8"))
    described |= {} if layers is None else {"num_hidden_layers": layers}
    config = AutoConfig.for_model(**described)
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    groups: dict[str, list[str]] = {}
    for tensor in shapes:
        layer = tensor.split(".")[2] if ".layers." in tensor else "rest"
        groups.setdefault(f"model-{layer}.safetensors", []).append(tensor)
    weight_map, size = {}, 0
    for file, names in groups.items():
        tensors = {n: torch.randn(shapes[n], dtype=torch.bfloat16) * shapes[n][-1] ** -0.5 for n in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size
