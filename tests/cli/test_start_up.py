"""What starts fast: mistakes, help and commands that read no weights end without importing torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.cli.main import VERBS

from .fork_server import fork_server

WRONG_OPTIONS = """
import sys, click
from contextgraft.cli.main import cli
for verb in ("evaluate", "replay", "train", "plan evaluation", "plan study"):
    try:
        cli.main([*verb.split(), "--wrong"], standalone_mode=False)
    except click.NoSuchOption:
        print(verb, [name for name in ("pydantic", "yaml", "rich") if name in sys.modules])
"""
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16,
    "max_position_embeddings": 64, "rope_theta": 1e4,
}  # fmt: skip
WRONG = {
    "verb": ["evalute"],
    "option": ["rope", "--thetta", "1"],
    "value": ["extract", "--base", "a", "--donor", "b", "--rank", "0", "--out", "c"],
    "missing option": ["merge", "--target", "a", "--out", "b"],
    "pattern": ["align", "--base", "a", "--donor", "b", "--target", "c", "--include", "("],
    "suite": ["evaluate", "nowhere", "--suite", "poems", "--out", "x.parquet"],
    "model of evaluate": ["evaluate", "nowhere", "--suite", "needle", "--lengths", "8", "--out", "x.parquet"],
    "model of inspect": ["inspect", "nowhere"],
    "model of plan": ["plan", "nowhere"],
    "sheet": ["inspect-sheet", "nowhere.tsv", "--base", "nowhere"],
    "source": ["fetch", "nowhere", "--out", "out"],
}

RECIPE = """
name: tiny
stages: [{length: 64, steps: 1, tokens: 64, theta: 1.0e+6}]
data: [{kind: documents, files: [none.txt]}]
optimiser: {learning_rate: 1.0e-4}
seed: 1
"""
UNUSABLE: dict[str, dict[str, dict[str, str]]] = {
    "missing": {},
    "without config": {"folder": {"README.md": "a model"}},
    "broken config": {"folder": {"config.json": "{", "adapter_config.json": "{"}},
    "broken header": {
        "folder": {
            "config.json": json.dumps(LLAMA),
            "model.safetensors": "not a header",
            "adapter_config.json": '{"peft_type": "LORA", "r": 8}',
            "adapter_model.safetensors": "not a header",
        }
    },
}
ON_FOLDERS = {
    "merge": ["merge", "--adapter", "folder", "--target", "folder", "--out", "o"],
    "merge with rope": ["merge", "--adapter", "folder", "--target", "folder", "--rope-from", "folder",
                        "--out", "o"],
    "extract": ["extract", "--base", "folder", "--donor", "folder", "--rank", "2", "--out", "o"],
    "align": ["align", "--base", "folder", "--donor", "folder", "--target", "folder"],
    "verify": ["verify", "folder"],
    "compare": ["compare", "folder", "folder"],
    "publish": ["publish", "folder", "--to", "a/b", "--dry-run"],
    "train": ["train", "--config", "recipe.yaml", "--base", "folder", "--out", "o"],
    "evaluate": ["evaluate", "folder", "--suite", "needle", "--lengths", "64", "--out", "x.parquet"],
    "report": ["report", "folder", "--out", "o"],
    "inspect": ["inspect", "folder"],
    "plan": ["plan", "folder"],
}  # fmt: skip


def imported(*arguments: str, folder: Path) -> tuple[int, list[str]]:
    """The exit code of a command line, and the large packages that it imported."""
    done = fork_server().run(*arguments, folder=folder)
    return done.returncode, done.imported


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake(mistake: str, tmp_path: Path) -> None:
    assert imported(*WRONG[mistake], folder=tmp_path) == (2, [])


def test_a_wrong_option_imports_neither_configurations_nor_tables() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRONG_OPTIONS], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        f"{verb} []" for verb in ("evaluate", "replay", "train", "plan evaluation", "plan study")
    ]


@pytest.mark.parametrize("defect", UNUSABLE)
@pytest.mark.parametrize("verb", ON_FOLDERS)
def test_an_unusable_folder(verb: str, defect: str, tmp_path: Path) -> None:
    if (verb, defect) == ("plan", "broken header"):
        pytest.skip("a plan needs no weights")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for folder, files in UNUSABLE[defect].items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    arguments = ON_FOLDERS[verb]
    if verb == "verify" and (tmp_path / "folder/adapter_config.json").exists():
        arguments = [*arguments, "--base", "folder", "--donor", "folder"]
    before = sorted(tmp_path.iterdir())
    assert imported(*arguments, folder=tmp_path) == (2, [])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str, tmp_path: Path) -> None:
    assert imported(*verb.split(), "--help", folder=tmp_path) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["rope", "--theta", "1e4", "--context", "4096", "--to", "8192"],
        ["inspect", "model"],
        ["inspect", "model", "--json"],
        ["inspect-sheet", "sheet.tsv", "--base", "model"],
        ["plan", "llama3-8b"],
        ["plan", "llama3-70b", "--json"],
    ],
    ids=" ".join,
)
def test_a_command_that_reads_no_weights(arguments: list[str], toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    toy.write(tmp_path / "model", toy.weights(config), config, 1)
    (tmp_path / "model/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (tmp_path / "sheet.tsv").write_text("name\tsource\ntune\tmodel\n")
    assert imported(*arguments, folder=tmp_path) == (0, [])
