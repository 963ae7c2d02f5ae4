"""Our verdict on adapters, against vLLM's own loader: what it takes, with which ranks and scalings."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from contextgraft.adapter.extract.rank_spec import SERVED_RANKS
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.vllm import CHECKED_VERSION, audit_for_vllm
from contextgraft.cli.commands import extract
from contextgraft.errors import ContextgraftError

pytestmark = pytest.mark.slow

LOADER = Path(__file__).with_name("vllm_loader.py")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
# settings of PEFT's LoraConfig
BY_PEFT: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank 48": {"r": 48},
    "rank 600": {"r": 600},
    "rank stabilised": {"use_rslora": True},
    "lower ranks by pattern": {"rank_pattern": {"q_proj": 2, "v_proj": 4}},
    "higher ranks by pattern": {"r": 4, "rank_pattern": {"down_proj": 16}},
    "alpha by pattern": {"alpha_pattern": {"o_proj": 64}},
    "both patterns": {"rank_pattern": {"q_proj": 16}, "alpha_pattern": {"q_proj": 4, "k_proj": 1}},
    "patterns, rank stabilised": {"rank_pattern": {"q_proj": 16}, "use_rslora": True},
    "patterns of whole names": {"rank_pattern": {"model.layers.1.mlp.up_proj": 3}},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "DoRA": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias lora_only": {"bias": "lora_only"},
    "bias all": {"bias": "all"},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings": {"modules_to_save": ["embed_tokens"]},
    "embeddings": {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "tokens trained": {"trainable_token_indices": [3, 5]},
    "one layer": {"layers_to_transform": [1]},
}
# classes with another head, by the task that PEFT calls them
BY_TASK: dict[str, Any] = {
    "SEQ_CLS": LlamaForSequenceClassification,
    "TOKEN_CLS": LlamaForTokenClassification,
    "QUESTION_ANS": LlamaForQuestionAnswering,
}
# changes of the plain adapter's adapter_config.json; None removes the key
BY_CONFIG: dict[str, dict[str, Any]] = {
    "no target modules": {"target_modules": None},
    "a pattern for nothing": {"rank_pattern": {"nothing": 513}},
    "a smaller pattern for nothing": {"rank_pattern": {"nothing": 500}},
    "activated LoRA": {"alora_invocation_tokens": [1, 2]},
    "layers replicated": {"layer_replication": [[0, 2]]},
    "unknown settings": {"some_new_setting": {"a": 1}},
}
# changes of the plain adapter's keys
BY_KEY: dict[str, Callable[[str], str]] = {
    "keys with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "keys without PEFT's prefix": lambda key: key.removeprefix("base_model.model."),
    "keys of a compiled model": lambda key: key.replace(".model.layers", "._orig_mod.model.layers"),
}


def model(kind: Any = LlamaForCausalLM) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, attention_bias=True,
    )  # fmt: skip
    return kind(config)


def by_peft(folder: Path, settings: dict[str, Any], kind: Any = LlamaForCausalLM) -> Path:
    get_peft_model(model(kind), LoraConfig(**{**PLAIN, **settings})).save_pretrained(folder)
    return folder


def ours(root: Path) -> Iterator[tuple[str, Path]]:
    """What `extract` writes: two ranks, by energy, for served ranks, and of embeddings."""
    base = model()
    base.save_pretrained(root / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in base.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.01)
    base.save_pretrained(root / "donor")
    variants = {
        "ours": ["--rank", 2, "--rank", 4],
        "ours by energy": ["--energy", 0.6, "--max-rank", 16],
        "ours for served ranks": ["--rank", 3, "--serve-ranks"],
        "ours of embeddings": ["--rank", 4, "--embeddings", "both"],
    }
    for name, words in variants.items():
        sides = ["--base", root / "base", "--donor", root / "donor", "--out", root / name]
        done = CliRunner().invoke(extract.command, [str(word) for word in (*sides, *words)])
        assert done.exit_code == 0, done.output
        for folder in sorted((root / name).iterdir()):
            yield f"{name}, {folder.name}", folder


def adapters(root: Path) -> dict[str, Path]:
    made = {name: by_peft(root / name, settings) for name, settings in BY_PEFT.items()}
    for task, kind in BY_TASK.items():
        made[task] = by_peft(root / task, {"task_type": task}, kind)
        bare = {"task_type": task, "target_modules": ["q_proj"], "modules_to_save": []}
        made[f"{task}, only factors"] = by_peft(root / f"{task} bare", bare, kind)
    for name, changes in BY_CONFIG.items():
        made[name] = by_peft(root / name, {})
        path = made[name] / "adapter_config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: config[key] for key in config if changes.get(key, 0) is not None}))
    for name, rename in BY_KEY.items():
        made[name] = by_peft(root / name, {})
        path = made[name] / "adapter_model.safetensors"
        save_file({rename(key): tensor for key, tensor in load_file(path).items()}, path)
    return made | dict(ours(root / "extracted"))


@pytest.fixture(scope="module")
def vllm(consumer: Callable[[str], Path]) -> Path:
    """VLLM's Python files."""
    return consumer("vllm")


def test_no_verdict_differs_from_vllms_own(vllm: Path, tmp_path: Path) -> None:
    made = adapters(tmp_path)
    assert len(made) >= 25
    words = [sys.executable, LOADER, vllm, *made.values()]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert tuple(answer["ranks"]) == SERVED_RANKS
    modules = {name for name, _ in model().named_modules()}
    differing = {}
    taken = 0
    for name, path in made.items():
        theirs = answer["adapters"][str(path)]
        lost = set(theirs.get("modules", {})) - modules  # vLLM applies these to nothing, silently
        refused = "error" in theirs or bool(lost)
        try:
            adapter = open_adapter(path)
            problems = audit_for_vllm(adapter).problems
        except ContextgraftError as error:
            problems = (str(error),)
        if bool(problems) != refused:
            differing[name] = (problems, theirs.get("error", sorted(lost)))
        if not refused and not problems:
            taken += 1
            scalings = {f"{key}.weight": value for key, value in theirs["modules"].items()}
            assert scalings == {
                key: [adapter.config.rank(key.removesuffix(".weight")), pytest.approx(entry.scaling)]
                for key, entry in adapter.factors.items()
            }, name
            assert (audit_for_vllm(adapter).max_lora_rank or 0) >= theirs["required"]
    assert not differing
    assert taken >= 15


def test_the_version_is_the_one_that_was_checked(vllm: Path) -> None:
    assert vllm.name == f"vllm-{CHECKED_VERSION}"
