import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from contextgraft.training.data.batches import BatchSampler, TokenBatch
from contextgraft.training.reporting.progress import SilentReporter
from contextgraft.training.schedule import TrainingStep

WORDS = ["<bos>", "<unk>", ".", "?", "code", "of", *[f"k{i}" for i in range(9)], *[f"v{i}" for i in range(9)]]
FILLER = ["and", "the", "sea", "was", "old"]
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "stages": [{"length": 32, "steps": 3, "tokens": 64}, {"length": 64, "steps": 4, "tokens": 128}],
    "theta": "progressive",
    "replay": {"share": 0.4, "lengths": [16], "tokens": 32},
    "data": [{"kind": "needle", "format": "format.yaml", "weight": 2}, {"kind": "repeat", "first": 2}],
    "optimiser": {"learning_rate": 0.01, "weight_decay": 0.1, "warmup": 2},
}


class Recorder(SilentReporter):
    """Keeps the lines of a run in a list, and asks it to stop when `stop` returns true."""

    def __init__(self, lines: list[str] | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        self.lines = [] if lines is None else lines
        self.stop_requested = stop  # type: ignore[method-assign]

    def message(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are faster on one thread, above all when other work runs at the same time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers in bfloat16 with 16 tokens of context and a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "base"
    words = [*WORDS, *FILLER]
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=16,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    """A folder with everything recipes refer to, and `recipe.yaml`."""
    return write_recipe_folder(tmp_path / "recipes")


def write_recipe_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "haystack.txt").write_text(" ".join(FILLER * 30), encoding="utf-8")
    text = "code of k1 v2 . the sea was old and "
    lines = (json.dumps({"text": text * times}) + "\n" for times in (1, 30, 2, 9))
    (folder / "book.jsonl").write_text("".join(lines), encoding="utf-8")
    rows = [{"prompt": f"code k{i}", "answer": f"v{i} v{i}"} for i in range(5)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    needle = {
        "name": "tiny",
        "needle": "code of {key} {value} .",
        "question": "? of {key}",
        "answer": "{value}",
        "ending": ".",
        "keys": [f"k{i}" for i in range(9)],
        "values": [f"v{i}" for i in range(9)],
        "value_words": 2,
        "haystack": "haystack.txt",
    }
    (folder / "format.yaml").write_text(yaml.safe_dump(needle), encoding="utf-8")
    write_recipe(folder)
    return folder


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sharded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in float32, untied, in two shards."""
    folder = tmp_path_factory.mktemp("models") / "sharded"
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = {name: value.detach().clone() for name, value in model.named_parameters()}
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])
    folder.mkdir()
    weight_map: dict[str, str] = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"tie_word_embeddings": False, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


def write_demos_donor(folder: Path, times: int = 1) -> Path:
    """The recipe of the demo's donor with all that it refers to: three steps, or so many times that."""
    shutil.copytree(Path(__file__).parents[2] / "config/demo", folder)
    recipe = yaml.safe_load((folder / "donor.yaml").read_text(encoding="utf-8"))
    steps = {256: 2 * times, 512: times}
    stages = [stage for stage in recipe["stages"] if stage["length"] in steps]
    recipe["stages"] = [{**stage, "steps": steps[stage["length"]], "tokens": 1024} for stage in stages]
    config = folder / "short.yaml"
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return config


def interrupt(monkeypatch: pytest.MonkeyPatch, stop: int, act: Callable[[], object]) -> None:
    """Do something that is interrupted before this step."""
    genuine = BatchSampler.batch

    def batch(self: BatchSampler, step: TrainingStep) -> TokenBatch:
        if step.number == stop:
            raise KeyboardInterrupt
        return genuine(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchSampler, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            act()


def curve(folder: Path) -> list[dict[str, Any]]:
    """What a result says of every step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
