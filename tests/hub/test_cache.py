"""Repositories in the cache: by hub, owner, name and commit, fetched once and again if damaged."""

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import HfApi

from contextgraft.errors import OutputError, SourceError
from contextgraft.sources.cache import cached_folder, cached_models, clear_cache, local_folder
from contextgraft.sources.conversion import Conversion
from contextgraft.sources.fetch import fetch
from contextgraft.sources.fetched import check_fetched, fetched_already
from contextgraft.sources.hub.client import Hub

if TYPE_CHECKING:
    from tests.hub.server import HubServer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXTGRAFT_CACHE", str(tmp_path / "cache"))


def test_repositories_of_the_same_name_are_different_entries(
    server: "HubServer", hub: Hub, model: dict[str, bytes], peft_adapter: dict[str, bytes]
) -> None:
    commit = server.add("owner/tiny", model)
    server.add("other/tiny", peft_adapter)
    first, second = local_folder("hf:owner/tiny", hub), local_folder("hf:other/tiny", hub)
    assert (first.name, second.name) == ("tiny", "tiny")
    assert first != second
    assert local_folder(f"hf:owner/tiny@{commit}", hub) == first
    elsewhere = replace(hub, api=HfApi(endpoint=server.url.replace("127.0.0.1", "localhost"), token=False))
    assert local_folder("hf:owner/tiny", elsewhere) not in (first, second)
    assert len(list(cached_models())) == 3


@pytest.mark.parametrize("name", ["chat_template.jinja", "model-00002-of-00003.safetensors", "config.json"])
def test_a_damaged_repository_is_fetched_again(
    server: "HubServer", hub: Hub, model: dict[str, bytes], heard: Any, name: str
) -> None:
    server.add("owner/tiny", model)
    entry = local_folder("hf:owner/tiny", hub)
    os.truncate(entry / name, len(model[name]) - 1)
    assert local_folder("hf:owner/tiny", hub) == entry
    assert (entry / name).read_bytes() == model[name]
    assert sum("fetched again" in line for line in heard.lines) == 1
    local_folder("hf:owner/tiny", hub)
    assert sum("fetched again" in line for line in heard.lines) == 1


def test_an_output_of_fetch_that_is_damaged_is_said(
    server: "HubServer", hub: Hub, model: dict[str, bytes], peft_adapter: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.add("owner/lora", peft_adapter)
    damages = {"tiny": "tokenizer.json", "lora": "adapter_model.safetensors"}
    for repository, name in damages.items():
        source, out = f"hf:owner/{repository}", tmp_path / repository
        record = fetch(source, out, hub=hub)
        assert fetched_already(source, out, hub) == record
        (out / name).unlink()
        with pytest.raises(OutputError, match="--force"):
            fetched_already(source, out, hub)
    record = fetch("hf:owner/tiny", tmp_path / "headers", hub=hub, headers=True)
    assert fetched_already("hf:owner/tiny", tmp_path / "headers", hub, headers=True) == record
    (tmp_path / "headers/model-00001-of-00003.safetensors.header").unlink()
    with pytest.raises(OutputError, match="--force"):
        check_fetched(tmp_path / "headers")


def test_a_commit_and_what_was_resolved_need_no_network(
    server: "HubServer", hub: Hub, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = server.add("owner/tiny", model)
    server.add("owner/other", model)
    entry = local_folder("hf:owner/tiny", hub)
    record = fetch("hf:owner/tiny", tmp_path / "out", hub=hub)
    server.update("owner/tiny", {**model, "LICENSE": b"mine"})
    newer = local_folder("hf:owner/tiny", hub)
    assert newer != entry
    server.log.clear()
    pinned = f"hf:owner/tiny@{first}"
    assert local_folder(pinned, hub) == entry
    assert cached_folder(pinned, hub) == entry
    assert fetched_already("hf:owner/tiny", tmp_path / "out", hub) is None
    (tmp_path / "out/contextgraft.json").write_text(json.dumps({**record, "source": pinned}))
    assert server.requests("tiny")
    server.log.clear()
    assert fetched_already(pinned, tmp_path / "out", hub) is not None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_folder("hf:owner/tiny", hub) == newer
    for absent in ("hf:owner/tiny@v2", "hf:owner/other"):
        with pytest.raises(SourceError, match="not in the cache, and access to the hub is disabled"):
            local_folder(absent, hub)
    assert cached_folder(f"hf:owner/other@{first}", hub) is None
    clear_cache()
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        local_folder("hf:owner/tiny", hub)
    assert not server.log


def test_an_entry_that_is_read_is_not_removed(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    with ExitStack() as held, ExitStack() as other:
        entry = local_folder("hf:owner/tiny", hub, held)
        assert local_folder("hf:owner/tiny", hub, other) == entry
        assert clear_cache() == (entry.parent,)
        other.close()
        assert clear_cache() == (entry.parent,)
        assert (entry / "config.json").exists()
    assert clear_cache() == ()
    assert not entry.parent.exists()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("kind", ["graft", "trained", "adapter"])
def test_what_publish_wrote_is_fetched_once(
    server: "HubServer", hub: Hub, request: pytest.FixtureRequest, heard: Any, kind: str
) -> None:
    files = request.getfixturevalue("peft_adapter" if kind == "adapter" else "model")
    needed = [name for name in files if name.endswith((".json", ".safetensors"))]
    listed = {"files": {name: {"bytes": 1} for name in needed}} if kind == "graft" else {}
    record = {"kind": kind, "format": 2, **listed}
    server.add("owner/own", files | {"contextgraft.json": json.dumps(record).encode()})
    entry = local_folder("hf:owner/own", hub)
    assert local_folder("hf:owner/own", hub) == entry
    assert sum("fetched once" in line for line in heard.lines) == 1
    (entry / needed[-1]).unlink()
    assert (local_folder("hf:owner/own", hub) / needed[-1]).exists()


def test_converted_repositories_are_recognised_with_the_same_options(
    server: "HubServer", hub: Hub, toy: SimpleNamespace, tmp_path: Path
) -> None:
    torch.save(toy.weights(toy.config()), tmp_path / "file")
    weights, config = (tmp_path / "file").read_bytes(), json.dumps(toy.config()).encode()
    server.add("owner/old", {"config.json": config, "pytorch_model.bin": weights, "vocab.txt": b"a"})
    conversion, out = Conversion(convert_pickles=True), tmp_path / "out"
    record = fetch("hf:owner/old", out, hub=hub, conversion=conversion)
    assert fetched_already("hf:owner/old", out, hub, conversion=conversion) == record
    assert fetched_already("hf:owner/old", out, hub) is None
    (out / "vocab.txt").write_text("b")
    with pytest.raises(OutputError, match=r"vocab\.txt.*--force"):
        fetched_already("hf:owner/old", out, hub, conversion=conversion)
