"""A hub of our own, models for it, and the command line pointed at it."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import save

from contextgraft.sources.hub.client import DownloadProgress, Hub

from ..robustness import in_process
from .server import HubServer

COMMAND = Path(sys.executable).with_name("contextgraft")


@dataclass
class Heard:
    """What a fetch said on its way."""

    lines: list[str] = field(default_factory=list)
    plans: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    """How a run of the command line ended."""

    status: int
    stdout: str
    stderr: str

    def complaint(self) -> str:
        """The error it ended with: one line, the last, and exit code 2."""
        assert self.status == 2, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("contextgraft: error: ")]
        assert lines == self.stderr.splitlines()[-1:], self.stderr
        return lines[0]


def ended(process: subprocess.Popen[str]) -> Done:
    """The end of a command that was started."""
    stdout, stderr = process.communicate()
    return Done(process.returncode, stdout, stderr)


@pytest.fixture
def server() -> Iterator[HubServer]:
    """The hub, running for one test."""
    with HubServer().running() as hub:
        yield hub


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def hub(server: HubServer, heard: Heard) -> Hub:
    """The real client, in this process, impatient."""
    progress = DownloadProgress(log=heard.lines.append, plan=heard.plans.append)
    return Hub(api=HfApi(endpoint=server.url, token=False), progress=progress, retry_delays=(0, 0, 0))


@pytest.fixture
def model(toy: SimpleNamespace, tmp_path: Path) -> dict[str, bytes]:
    """Files of a model in three shards, and what else a repository has."""
    folder = toy.write(tmp_path / "made", toy.weights(toy.config()), toy.config(), shards=3)
    files: dict[str, bytes] = toy.contents(folder)
    extra = {
        "tokenizer.json": b'{"model": {"vocab": {"a": 0, "b": 1}}}',
        "README.md": b"---\nlicense: mit\n---\n",
        "LICENSE": b"yours",
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "pytorch_model.bin": b"\x80\x04" * 100,
        "model.gguf": b"GGUF" * 100,
        "original/consolidated.00.pth": b"\x80\x04" * 100,
        "onnx/model.onnx": b"onnx" * 100,
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tools.jinja": b"{{ tools }}",
    }
    return files | extra


@pytest.fixture
def peft_adapter() -> dict[str, bytes]:
    """Files of a LoRA as PEFT writes it."""
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{module}.lora_A.weight": torch.ones(2, 8), f"{module}.lora_B.weight": torch.ones(8, 2)}
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": "owner/base", "task_type": "CAUSAL_LM",
    }  # fmt: skip
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(factors),
    }


@pytest.fixture
def environment(server: HubServer, tmp_path: Path) -> dict[str, str]:
    """For a subprocess: the hub is ours, nothing of the user's is read."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    own["CONTEXTGRAFT_CACHE"] = str(tmp_path / "cache")
    return inherited | own | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """`contextgraft` as a person starts it; `largest` is where the disk refuses to let a file grow."""

    def start(*arguments: str | Path, largest: int | None = None, **more: str) -> subprocess.Popen[str]:
        limit = ["prlimit", f"--fsize={largest}"] if largest is not None else []
        return subprocess.Popen(
            [*limit, str(COMMAND), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment | more,
        )  # fmt: skip

    return start


@pytest.fixture
def run(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The same to its end, in this process, which spares it the imports."""

    def run(*arguments: str | Path) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr("os.environ", environment)
            importlib.reload(constants)  # where the hub's client reads its environment variables
            outcome = in_process.run([*map(str, arguments)])
        importlib.reload(constants)
        assert outcome.status is not None, outcome.raised
        return Done(outcome.status, outcome.stdout, outcome.stderr)

    return run
