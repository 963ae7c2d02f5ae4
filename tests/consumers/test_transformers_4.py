"""Grafts in transformers 4.46 and 4.57: they load, and compute what they compute in transformers 5."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.consumers import last_logits
from tests.parity.context_families import FAMILIES, build, graft

# one family for each type of RoPE, of classes that both versions have
TYPES = {
    "default": "mistral without window",
    "linear": "llama linear",
    "dynamic": "llama dynamic",
    "llama3": "llama llama3",
    "yarn": "qwen2 yarn",
    "longrope": "phi3",
    "partial": "stablelm",
    "other names": "gpt_neox",
}
# and of classes that 4.57 has
NEW = {"by layer type": "gemma3", "yarn by layer type": "olmo3", "window": "cohere2", "NoPE": "smollm3"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grafts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A graft of each family."""
    roots = {kind: tmp_path_factory.mktemp("family") for kind in TYPES | NEW}
    for kind, family in (TYPES | NEW).items():
        build(FAMILIES[family], roots[kind])
        graft(roots[kind])
    return {kind: root / "graft" for kind, root in roots.items()}


@pytest.mark.parametrize("version", ["4.46", "4.57"])
def test_the_same_logits(version: str, grafts: dict[str, Path], consumer: Callable[[str], Path]) -> None:
    kinds = TYPES if version == "4.46" else TYPES | NEW
    python = consumer(f"transformers-{version}") / "bin/python"
    words = [str(python), last_logits.__file__, *(str(grafts[kind]) for kind in kinds)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    received: dict[str, Any] = json.loads(done.stdout)
    differing = {}
    for kind in kinds:
        values = received[str(grafts[kind])]
        expected = torch.tensor(last_logits.last_logits(str(grafts[kind])))
        if isinstance(values, str):
            differing[kind] = values
        elif not torch.allclose(torch.tensor(values), expected, atol=1e-4):
            differing[kind] = f"{(torch.tensor(values) - expected).abs().amax(1).tolist()}"
    assert differing == {}
