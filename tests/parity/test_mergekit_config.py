"""`contextgraft merge --mergekit` against mergekit-yaml with the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from mergekit.scripts.run_yaml import main as run_yaml
from safetensors.torch import load_file

from contextgraft.cli.commands import merge

from .conftest import EPS, run

pytestmark = pytest.mark.slow


def weighted(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": {"weight": weight}} for name, weight in pairs]


CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": weighted(("TARGET+ADAPTER", 0.7))},
    "mean": {"merge_method": "linear", "models": weighted(("TARGET", 1), ("TARGET+ADAPTER", 3))},
    "passthrough": {"merge_method": "passthrough", "models": [{"model": "TARGET+ADAPTER"}]},
    "half": {
        "merge_method": "task_arithmetic",
        "base_model": "TARGET",
        "models": weighted(("TARGET+ADAPTER", 0.5)),
    },
    "tune and adapter": {
        "merge_method": "task_arithmetic",
        "base_model": "BASE",
        "models": weighted(("TARGET", 1), ("BASE+ADAPTER", 0.5)),
    },
    "lambda": {
        "merge_method": "task_arithmetic",
        "base_model": "BASE",
        "models": weighted(("TARGET", 0.5), ("BASE+ADAPTER", 1)),
        "parameters": {"lambda": 2.0},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_same_file_gives_the_same_linear_weights(
    family: str, name: str, trio_of: Callable[[str], Any], tmp_path: Path
) -> None:
    """Within the roundings of mergekit's steps in bfloat16; norms, biases and embeddings are not LoRA's."""
    trio = trio_of(family)
    folders = {"TARGET": trio.path("target"), "BASE": trio.path("base"), "ADAPTER": trio.adapter}
    text = yaml.safe_dump({**CONFIGS[name], "dtype": "bfloat16"})
    for word, folder in folders.items():
        text = text.replace(word, str(folder))
    file = tmp_path / "config.yaml"
    file.write_text(text)
    words = (file, tmp_path / "theirs", "--lora-merge-cache", tmp_path / "cache", "--no-write-model-card")
    done = CliRunner().invoke(run_yaml, [*map(str, words), "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    run(merge.command, "--mergekit", file, "--out", tmp_path / "ours", "--threads", 1)
    before = trio.weights("target")
    ours, theirs = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    names = [key for key in ours if ours[key].ndim > 1 and ".layers." in key]
    assert names
    for key in names:
        size = torch.stack([before[key], trio.weights("base")[key], ours[key]]).abs().amax(0).float()
        difference = (ours[key].float() - theirs[key].float()).abs()
        assert (difference <= 3 * EPS[torch.bfloat16] * size + 1e-6).all(), key
        moved = (ours[key].float() - before[key].float()).norm()
        assert difference.norm() < 0.2 * moved, key
