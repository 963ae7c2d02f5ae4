"""Classes without any length or RoPE (Bloom, Mamba): the weights alone are grafted, positions stay."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from tests.parity.families.proof import auto_class, base_config, graft, logits, save_pair, verified
from tests.parity.families.table import FAMILIES
from transformers import AutoConfig

from contextgraft.cli.commands import inspect, merge
from contextgraft.errors import InputError
from contextgraft.rope.settings import read, read_any_length

MODULES = {"bloom without a length": "query_key_value", "mamba": "in_proj"}
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast"}


def run(command: str, *words: object) -> str:
    commands = {"merge": merge.command, "inspect": inspect.command}
    done = CliRunner().invoke(commands[command], [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(
    scope="module", params=["bloom without a length", pytest.param("mamba", marks=pytest.mark.slow)]
)
def grafted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Base, donor, adapter and graft of a family."""
    root = tmp_path_factory.mktemp("without")
    assert save_pair(base_config(request.param, FAMILIES[request.param]), {}, "theta", root)
    (root / "base/tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    assert graft(root, tied=True) == ""
    return request.param, root


def test_the_graft_is_the_donor_and_no_setting_is_new(grafted: tuple[str, Path]) -> None:
    _, root = grafted
    for length in (12, 300):
        assert (logits(root / "donor", length) - logits(root / "graft", length)).abs().max() < 1e-4
    configs = [json.loads((root / side / "config.json").read_text()) for side in ("base", "graft")]
    assert configs[0] == configs[1]
    assert json.loads((root / "graft/tokenizer_config.json").read_text()) == TOKENIZER
    verified(root)


def test_nothing_is_said_of_a_length(grafted: tuple[str, Path]) -> None:
    _, root = grafted
    assert "context       no limit" in run("inspect", root / "base")
    for folder in (root / "graft", root / "adapter/r512"):
        shown = run("inspect", folder)
        assert "no limit" in shown
        for option in ("--max-model-len", "--ctx-size", "--context-length", "hf-overrides", "0 positions"):
            assert option not in shown


def test_an_adapter_of_peft_keeps_the_targets_positions(grafted: tuple[str, Path], tmp_path: Path) -> None:
    name, root = grafted
    opened = auto_class(AutoConfig.from_pretrained(root / "base"))
    tokens = torch.arange(3, 15)[None]

    def base() -> torch.nn.Module:
        model: torch.nn.Module = opened.from_pretrained(root / "base", dtype=torch.float32).eval()
        return model

    adapted = get_peft_model(base(), LoraConfig(r=4, target_modules=[MODULES[name]]))
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(key)))
    adapted.save_pretrained(tmp_path / "adapter")
    words = ["--adapter", tmp_path / "adapter", "--target", root / "base", "--out", tmp_path / "graft"]
    run("merge", *words, "--keep-rope")
    ours = opened.from_pretrained(tmp_path / "graft", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()(tokens).logits
        assert (expected - base()(tokens).logits).abs().max() > 1e-3
        assert (expected - ours(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba", "max_position_embeddings": 0},
        {"model_type": "mamba", "max_position_embeddings": -1},
        {"model_type": "unknown"},
        {"model_type": "whisper"},  # its positions have another name
    ],
    ids=str,
)
def test_a_length_that_is_missing_is_not_none(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match="max_position_embeddings cannot be used"):
        read_any_length(config)


def test_a_length_is_needed_elsewhere() -> None:
    assert read_any_length({"model_type": "mamba"}).max_positions == 0
    assert read_any_length({"model_type": "mamba", "max_position_embeddings": 512}).max_positions == 512
    with pytest.raises(InputError, match="received nothing"):
        read({"model_type": "mamba"})
