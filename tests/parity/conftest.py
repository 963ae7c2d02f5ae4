"""Tiny random models of many architectures, as transformers saves them, with our adapters and grafts of them.

`base` is random; `donor` and `target` are the base plus deltas of falling spectrum on whatever has two
dimensions in a layer, plus shifts on norms and biases. The donor has four times the theta and eight times the
positions.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.cli.commands import extract, merge

Weights = dict[str, torch.Tensor]

COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
SPARSE = {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},  # biases on q, k, v
    "qwen3": {"head_dim": 24},  # norms of q and k; heads wider than the hidden size
    "gemma2": {"head_dim": 16},  # tied embeddings, four norms a layer
    "phi3": {},  # q, k, v in one matrix, gate and up in another
    "olmo2": {},  # norms after the blocks
    "granite": {},
    "cohere": {},  # tied embeddings, one norm a layer
    "glm4": {"head_dim": 16},  # biases, gate and up in one matrix, part of a head is rotated
    "stablelm": {"use_qkv_bias": True},  # biases on norms, part of a head is rotated
    "starcoder2": {},  # tied embeddings, biases everywhere
    "gpt_neox": {},  # biases everywhere, other names, part of a head is rotated
    "mixtral": {"num_local_experts": 8},
    "qwen3_moe": {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16
    },
    "deepseek_v3": {**LATENT, **SPARSE, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}  # fmt: skip
# plain, biases, norms around layers, fused layers, parallel residual, experts, latent attention
QUICK = ("llama", "qwen2", "gemma2", "phi3", "gpt_neox", "mixtral", "deepseek_v3")
STACKED = ("mixtral", "qwen3_moe", "deepseek_v3")  # saved expert by expert, one tensor in memory
UNKNOWN_TO_MERGEKIT = ("granite", "deepseek_v3")  # its extractor fails on both
RANK = 8
EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}


def move(weights: Weights, seed: int, size: float) -> None:
    """Add a delta to every weight of a layer, and to whatever has one dimension, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(weights.items()):
        if tensor.ndim == 1:
            delta = torch.randn(tensor.shape, generator=generator) * 2
        elif ".layers." in name:
            *rows, columns = tensor.shape
            rank = min(rows[-1], columns)
            left = torch.randn(*rows, rank, generator=generator) * torch.arange(1, rank + 1) ** -1.5
            right = torch.randn(*rows[:-1], rank, columns, generator=generator)
            delta = left @ right
        else:
            continue
        tensor.add_((delta * size).to(tensor.dtype))


def lengthened(config: Any) -> Any:
    """The config with four times the theta and eight times the positions."""
    values = config.to_dict()
    rope = values["rope_parameters"]
    longer = {
        "rope_parameters": {**rope, "rope_theta": rope["rope_theta"] * 4},
        "max_position_embeddings": values["max_position_embeddings"] * 8,
    }
    return type(config).from_dict(values | longer)


def build(name: str, root: Path, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> None:
    """Save base, donor and target of an architecture, its config changed."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**COMMON, **ARCHITECTURES[name], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = model.state_dict()
    move(weights, 1, 0.02)
    base = {key: tensor.clone() for key, tensor in weights.items()}
    model.save_pretrained(root / "base")
    move(weights, 2, 0.01)
    model.config = lengthened(config)
    model.save_pretrained(root / "donor")
    model.load_state_dict(base)
    move(weights, 3, 0.005)
    model.config = config
    model.save_pretrained(root / "target")


def run(command: Any, *words: object) -> None:
    """One verb of the command line."""
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@dataclass(frozen=True)
class Trio:
    """Folders of one architecture: three models, our adapter of rank RANK, our graft."""

    name: str
    root: Path

    @property
    def stacked(self) -> bool:
        """Whether transformers holds all experts of a layer in one tensor."""
        return self.name in STACKED

    @property
    def adapter(self) -> Path:
        """Our adapter."""
        return self.root / "adapters" / f"r{RANK}"

    def path(self, name: str) -> Path:
        """The folder of base, donor, target or graft."""
        return self.root / name

    def weights(self, name: str) -> Weights:
        """Tensors of base, donor, target or graft, under the names of the checkpoint."""
        tensors: Weights = load_file(self.root / name / "model.safetensors")
        return tensors

    def extract(self, rank: int, out: Path, *more: object) -> Path:
        """Our adapter of another rank."""
        pair = ("--base", self.path("base"), "--donor", self.path("donor"))
        run(extract.command, *pair, "--rank", rank, "--out", out, "--threads", 1, *more)
        return out / f"r{rank}"

    def merge(self, adapter: Path, out: Path, target: str = "target", *more: object) -> Weights:
        """Our merge of any adapter; the tensors of the result."""
        words = ("--adapter", adapter, "--target", self.path(target), "--out", out, "--threads", 1)
        run(merge.command, *words, *more)
        tensors: Weights = load_file(out / "model.safetensors")
        return tensors

    def peft(self, adapter: Path) -> Any:
        """The target with an adapter, as PEFT opens it."""
        model = AutoModelForCausalLM.from_pretrained(self.path("target"), dtype="auto")
        return PeftModel.from_pretrained(model, adapter)

    def merged_by_peft(self, adapter: Path, out: Path) -> Weights:
        """PEFT's merge of an adapter into the target, under the names of the checkpoint."""
        self.peft(adapter).merge_and_unload().save_pretrained(out)
        tensors: Weights = load_file(out / "model.safetensors")
        return tensors


def deltas(adapter: Path) -> Weights:
    """What an adapter adds to each weight: scaling * B @ A in float32."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    factors = load_file(adapter / "adapter_model.safetensors")
    result: Weights = {}
    for key in [key for key in factors if key.endswith(".lora_A.weight")]:
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        A, B = factors[key].float(), factors[key.replace("lora_A", "lora_B")].float()
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        result[f"{module}.weight"] = B @ A * (alpha / A.shape[0])
    return result


def tolerance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """One rounding of the dtype, element by element, on the way from one tensor to another."""
    moved = (after.float() - before.float()).abs()
    return EPS[before.dtype] * (before.float().abs() + moved) + 1e-6


def agree(before: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two results of one merge are the same to one rounding, and both are a change."""
    allowed = tolerance(before, ours)
    changed = ((theirs.float() - before.float()).abs() > allowed).any()
    return bool(changed and ((ours.float() - theirs.float()).abs() <= allowed).all())


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions of this file that tests compare with."""
    return SimpleNamespace(agree=agree, build=build, deltas=deltas, Trio=Trio)


@pytest.fixture(scope="session")
def trio_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trio]:
    """A world by the name of its architecture; made once, not to be written to but for new folders."""

    @cache
    def make(name: str) -> Trio:
        trio = Trio(name, tmp_path_factory.mktemp(name))
        build(name, trio.root)
        trio.extract(RANK, trio.root / "adapters")
        trio.merge(trio.adapter, trio.path("graft"))
        return trio

    return make


def marked(names: Iterable[str]) -> list[Any]:
    """The names, all but the quick ones slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="session", params=marked(ARCHITECTURES))
def trio(request: pytest.FixtureRequest, trio_of: Callable[[str], Trio]) -> Trio:
    """Each architecture in turn."""
    return trio_of(request.param)


@pytest.fixture(
    scope="session", params=marked(name for name in ARCHITECTURES if name not in UNKNOWN_TO_MERGEKIT)
)
def known_trio(request: pytest.FixtureRequest, trio_of: Callable[[str], Trio]) -> Trio:
    """Each architecture that mergekit's extractor knows."""
    return trio_of(request.param)
