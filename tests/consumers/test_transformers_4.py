"""Grafts in transformers 4.46.3 and 4.57.1: they load, and rotate and compute as in transformers 5."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.consumers import last_logits
from tests.parity.context_families import FAMILIES, build, graft

VERSIONS = ("4.46", "4.57")
PROGRAM = Path(last_logits.__file__)
LENGTH = 200  # past the context of every base
# one family for each type of RoPE; both versions know the class
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
NEW = {"by layer type": "gemma3", "yarn by layer type": "olmo3", "sliding": "cohere2"}  # classes of 4.57

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grafts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The graft of a family, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            root = tmp_path_factory.mktemp("family")
            build(FAMILIES[family], root)
            graft(root)
            made[family] = root / "graft"
        return made[family]

    return make


def read(python: Path, *words: object) -> Any:
    """What the program prints in another environment."""
    done = subprocess.run([python, PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [*TYPES, *NEW])
def test_the_same_logits(
    kind: str, version: str, grafts: Callable[[str], Path], consumer: Callable[[str], Path]
) -> None:
    if kind in NEW and version == VERSIONS[0]:
        pytest.skip("4.46 has no class for this family")
    python = consumer(f"transformers-{version}") / "bin/python"
    folder = grafts((TYPES | NEW)[kind])
    for length in (12, LENGTH):
        received = torch.tensor(read(python, length, folder))
        expected = torch.tensor(last_logits.last_logits(str(folder), length))
        assert torch.allclose(received, expected, atol=1e-4), (length, (received - expected).abs().max())
