"""Our adapters applied by mergekit, in its own way: `model+adapter` in a configuration."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from mergekit.scripts.run_yaml import main as run_yaml
from transformers import AutoModelForCausalLM

from .conftest import marked

NAMES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "granite", "glm4", "stablelm",
    "starcoder2", "mixtral", "qwen3_moe",
)  # fmt: skip


def apply(trio: Any, out: Path) -> None:
    """Run the configuration that the adapter's model card shows."""
    (config,) = re.findall(r"```yaml\n(.*?)\n```", (trio.adapter / "README.md").read_text(), re.S)
    names = {"YOUR_FINE_TUNE": str(trio.path("target")), "OWNER/NAME": str(trio.adapter)}
    for name, path in names.items():
        config = config.replace(name, path)
    plan = out.with_suffix(".yaml")
    plan.write_text(config)
    options = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
    words = [plan, out, "--lora-merge-cache", out.with_suffix(".cache"), *options]
    done = CliRunner().invoke(run_yaml, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def inside(folder: Path) -> Any:
    """The weights of a model as transformers holds them: mergekit writes a layer's experts as one tensor."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.state_dict()


@pytest.mark.parametrize("name", marked(NAMES))
def test_mergekit_merges_as_we_do(
    name: str, trio_of: Callable[[str], Any], kit: SimpleNamespace, tmp_path: Path
) -> None:
    """To one rounding on linear weights; norms, biases and RoPE stay the target's, for LoRA has none."""
    trio = trio_of(name)
    apply(trio, tmp_path / "theirs")
    before, ours, theirs = map(inside, (trio.path("target"), trio.path("graft"), tmp_path / "theirs"))
    linear = {key for key in ours if ours[key].ndim > 1 and ".layers." in key}
    assert theirs.keys() == ours.keys()
    assert not [key for key in linear if not kit.agree(before[key], ours[key], theirs[key])]
    assert all(theirs[key].equal(before[key]) for key in theirs.keys() - linear)
    config, target = (
        json.loads((folder / "config.json").read_text())
        for folder in (tmp_path / "theirs", trio.path("target"))
    )
    assert config["rope_parameters"] == target["rope_parameters"]
