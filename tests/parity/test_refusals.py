"""Models as transformers saves them that cannot be grafted: refused by name, in one line, before any work."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.cli.commands import extract
from contextgraft.errors import CheckpointError

TINY: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "num_local_experts": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("gpt_oss", CheckpointError, r"'model.layers.0.mlp.experts.down_proj' cannot .* \[4, 96, 64\]"),
        (
            "llama4_text",
            CheckpointError,
            r"'model.layers.0.feed_forward.experts.down_proj' cannot .* \[4, 96, 64\]",
        ),
    ],
)
def test_one_line_says_why(name: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TINY))
    model.save_pretrained(tmp_path / "base")
    pair = ["--base", str(tmp_path / "base"), "--donor", str(tmp_path / "base")]
    done = CliRunner().invoke(extract.command, [*pair, "--rank", "4", "--out", str(tmp_path / "out")])
    with pytest.raises(error, match=said) as caught:
        raise done.exception or AssertionError(done.output)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
