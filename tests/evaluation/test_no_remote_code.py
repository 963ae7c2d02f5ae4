"""No loader runs Python of a model folder, asks about it, loads a kernel by its name, or uses a network."""

import ast
import builtins
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import dynamic_module_utils
from transformers.integrations import hub_kernels

import contextgraft
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import ContextgraftError
from contextgraft.evaluation.backends.loading import find_device, load_config, load_model
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.formats.model.pretrained import OWN_FILES, use_built_in_kernels
from contextgraft.planning.shapes.meta_model import build_shape
from contextgraft.rope import settings
from contextgraft.rope.model_class import resolve
from contextgraft.sources.resolve import demo
from contextgraft.training.data.context import load_context
from contextgraft.training.model import build

LOADERS = {"from_pretrained", "from_config", "LLM", "HFLM", "load_dataset", "snapshot_download"}
SAFE = {"OWN_FILES", "NO_REMOTE_CODE"}
EVIL = 'raise SystemExit("code of the folder ran")\n'
AUTO_MAP = {
    name: f"evil.{name}" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
} | {"AutoTokenizer": ["evil.T", "evil.T"]}  # fmt: skip
OF_ANOTHER = {"AutoConfig": "evil/repo--a.C", "AutoModelForCausalLM": "evil/repo--a.M"}
KERNEL = "evil/kernel"
CONFIGS: dict[str, dict[str, Any]] = {
    "code for a known architecture": {"auto_map": AUTO_MAP},
    "code of another repository": {"auto_map": OF_ANOTHER},
    "code for an unknown architecture": {"auto_map": AUTO_MAP, "model_type": "evil"},
    "a kernel": {"attn_implementation": KERNEL, "experts_implementation": KERNEL},
    "a kernel by its private name": {"_attn_implementation": KERNEL, "_attn_implementation_internal": KERNEL},
    "a kernel for sections": {"attn_implementation": {"": KERNEL, "text_config": KERNEL}},
    "attention that is another package": {"attn_implementation": "flash_attention_2"},
    "paged attention": {"attn_implementation": "paged|evil/kernel@main:f"},
    "another place": {"_name_or_path": "evil/repo", "name_or_path": "evil/repo", "transformers_version": "9"},
}  # fmt: skip
TOKENIZERS: dict[str, dict[str, Any]] = {
    "a class of the folder": {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": [None, "evil.T"]}},
    "a class of another repository": {"auto_map": {"AutoTokenizer": ["evil/r--evil.T", None]}},
    "the old form": {"auto_map": ["evil.T", None]},
    "code for a known class": {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}},
    "another place": {"name_or_path": "evil/repo", "_name_or_path": "evil/repo"},
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_every_loader_in_the_source_is_given_the_safe_arguments() -> None:
    unsafe, seen = [], 0
    for path in Path(contextgraft.__file__).parent.rglob("*.py"):
        for call in calls(ast.parse(path.read_text())):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            if name in LOADERS:
                seen += 1
                spread = {getattr(word.value, "id", None) for word in call.keywords if word.arg is None}
                if not spread & SAFE:
                    unsafe.append(f"{path.name}:{call.lineno}")
    assert seen >= 7
    assert not unsafe
    assert OWN_FILES == {"trust_remote_code": False, "local_files_only": True}


@pytest.fixture(autouse=True)
def spies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way out of the process, or into code of others, ends the test."""

    def forbid(what: str) -> Callable[..., Any]:
        def fail(*arguments: Any, **_: Any) -> Any:
            raise SystemExit(f"{what}: {arguments}")

        return fail

    monkeypatch.setattr(builtins, "input", forbid("asked"))
    monkeypatch.setattr(socket.socket, "connect", forbid("a connection"))
    monkeypatch.setattr(socket, "getaddrinfo", forbid("a look-up"))
    monkeypatch.setattr(dynamic_module_utils, "get_cached_module_file", forbid("code of a folder"))
    monkeypatch.setattr(hub_kernels, "get_kernel", forbid("a kernel"))
    monkeypatch.setattr(transformers.modeling_utils, "is_kernels_available", lambda: True)


@pytest.fixture(scope="module")
def original() -> Path:
    return demo("style")


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    for path in original.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate/generate.py").write_text(EVIL)
    return tmp_path


def change(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shape(folder: Path) -> object:
    config = json.loads((folder / "config.json").read_text())
    return build_shape("m", config, folder / "config.json", "auto")


def trained(folder: Path) -> object:
    config = json.loads((folder / "config.json").read_text())
    return build(config, settings.read(config, folder), activation_checkpointing=False)


USES: dict[str, Callable[[Path], object]] = {
    "evaluate: model": lambda folder: load_model(folder, find_device("cpu"), "float32"),
    "evaluate: config": load_config,
    "evaluate: tokenizer": load_tokenizer,
    "train: tokenizer": lambda folder: load_context(open_model(folder), folder),
    "train: model": trained,
    "plan": shape,
    "rope": lambda folder: resolve(json.loads((folder / "config.json").read_text())),
}


def refusal(use: Callable[[Path], object], folder: Path) -> str | None:
    """The one line with which a folder is refused, if it is."""
    try:
        use(folder)
    except ContextgraftError as error:
        return str(error)
    return None


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_runs_nothing(folder: Path, name: str, use: str) -> None:
    change(folder / "config.json", CONFIGS[name])
    refused = refusal(USES[use], folder)
    assert refused is None or "unknown" in name  # an architecture that transformers lacks


@pytest.mark.parametrize("use", ["evaluate: tokenizer", "train: tokenizer", "evaluate: model"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_runs_nothing(folder: Path, name: str, use: str) -> None:
    change(folder / "tokenizer_config.json", TOKENIZERS[name])
    refused = refusal(USES[use], folder)
    assert refused is None or "\n" not in refused


def test_a_model_with_an_adapter_in_its_folder_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "evil/repo", "peft_type": "LORA"}'
    )
    with pytest.raises(ContextgraftError, match="a model and an adapter"):
        load_model(folder, find_device("cpu"), "float32")


def test_built_in_attention_is_kept() -> None:
    config = transformers.LlamaConfig(attn_implementation="eager")
    assert use_built_in_kernels(config)._attn_implementation == "eager"
    composite = transformers.AutoConfig.for_model("gemma3", attn_implementation={"text_config": KERNEL})
    assert use_built_in_kernels(composite).text_config._attn_implementation is None
