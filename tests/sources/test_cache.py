"""Sources in place of folders, fetched once into a cache that is listed and removed; known adapters."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import cache, inspect
from contextgraft.errors import InputError, OutputError
from contextgraft.sources.cache import cache_folder, cached_models, clear_cache, local_folder
from contextgraft.sources.cache_lock import LOCK, lock_entry
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import DownloadProgress, Hub
from contextgraft.sources.known_adapters import known_adapters, known_rope


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTEXTGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_folders_and_demo_models_are_not_copied(folder: Path) -> None:
    (folder / "model").mkdir()
    assert local_folder(str(folder / "model"), Hub()) == folder / "model"
    assert local_folder("demo:base", Hub()).name == "base"
    assert not cache_folder().exists()
    with pytest.raises(InputError, match="did you mean hf:owner/name"):
        local_folder("owner/name", Hub())


def test_a_verb_takes_a_source(folder: Path) -> None:
    done = CliRunner().invoke(inspect.command, ["demo:base", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["architecture"] == "LlamaForCausalLM"


def test_the_cache_is_listed_and_removed(folder: Path) -> None:
    kept = cache_folder() / ("a" * 40) / "Name"
    kept.mkdir(parents=True)
    (kept.parent / LOCK).touch()
    (kept / "contextgraft.json").write_text(json.dumps({"source": "hf:owner/Name@main"}))
    assert [(model.path, model.source) for model in cached_models()] == [(kept, "hf:owner/Name@main")]
    rows = json.loads(CliRunner().invoke(cache.command, ["--json"]).stdout)
    assert [row["source"] for row in rows] == ["hf:owner/Name@main"]
    other = cache_folder() / "mine/file"
    other.mkdir(parents=True)
    text = CliRunner().invoke(cache.command, ["--clear"]).stdout
    assert other.exists()
    assert "1 models or adapters" in text
    assert list(cached_models()) == []
    clear_cache()


def test_known_adapters_have_their_settings(folder: Path, toy: SimpleNamespace) -> None:
    assert set(known_adapters()) == {"llama3-70b-524k", "llama3-70b-1048k"}
    assert known_rope(folder) is None
    source = known_adapters()["llama3-70b-1048k"].source
    (folder / "contextgraft.source.json").write_text(json.dumps({"source": f"{source}@main"}))
    rope = known_rope(folder)
    assert rope is not None
    assert (rope.theta, rope.max_positions) == (3580165449, 1048576)


def test_only_what_contextgraft_made_is_removed(folder: Path) -> None:
    """Folders of others with names of the same form, links, and entries in use stay."""
    foreign = cache_folder() / ("b" * 40) / "graft"
    foreign.mkdir(parents=True)
    (foreign / "contextgraft.json").write_text(json.dumps({"source": "hf:owner/Name@main"}))
    ours = cache_folder() / ("c" * 40)
    (ours / "Model").mkdir(parents=True)
    (ours / LOCK).touch()
    (ours / "Model/contextgraft.json").write_text("{")
    (ours / "link").symlink_to(foreign)
    (cache_folder() / ("d" * 40)).symlink_to(ours)
    assert [(model.path.name, model.source) for model in cached_models()] == [("Model", "unreadable")]
    with lock_entry(ours, list):
        assert clear_cache() == (ours,)
        text = CliRunner().invoke(cache.command, ["--clear"])
        assert text.exit_code == 0
        assert f"{ours} is in use" in text.stderr
        assert "0 models or adapters" in text.stdout
    assert (ours / "Model/contextgraft.json").exists()
    assert clear_cache() == ()
    assert not ours.exists()
    assert (foreign / "contextgraft.json").exists()
    with pytest.raises(OutputError, match="did not write"), lock_entry(foreign.parent, list):
        pass
    assert not (foreign.parent / LOCK).exists()


def test_a_damaged_entry_is_fetched_again(gguf_model: Any) -> None:
    lines: list[str] = []
    hub = Hub(progress=DownloadProgress(log=lines.append))
    entry = local_folder(str(gguf_model.path), hub)
    assert local_folder(str(gguf_model.path), hub) == entry
    assert len(lines) == 1
    before = (entry / "tokenizer.json").read_bytes()
    for name in ("tokenizer.json", "model.safetensors", "contextgraft.json"):
        (entry / name).write_bytes(b"")
        assert local_folder(str(gguf_model.path), hub) == entry
        assert name in lines[-2]
        assert "fetched again" in lines[-2]
    assert (entry / "tokenizer.json").read_bytes() == before


def test_another_file_of_the_same_size_and_time_is_converted_again(gguf_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy2(gguf_model.path, path)
    before, entry = path.stat(), local_folder(str(path), Hub())
    raw = path.read_bytes()
    path.write_bytes(raw[:-4] + bytes(4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert local_folder(str(path), Hub()) != entry
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert local_folder(str(path), Hub()) == entry


def test_runs_at_the_same_time_fetch_once(gguf_model: Any) -> None:
    lines: list[str] = []
    results: list[Path] = []
    hub = Hub(progress=DownloadProgress(log=lines.append))
    threads = [
        threading.Thread(target=lambda: results.append(local_folder(str(gguf_model.path), hub)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert sum("fetched once" in line for line in lines) == 1


def test_inspect_of_a_gguf_file_converts_no_weights(
    folder: Path, write_tiny_gguf: Callable[..., Path]
) -> None:
    path = write_tiny_gguf()
    done = CliRunner().invoke(inspect.command, [str(path), "--json"], catch_exceptions=False)
    assert not cache_folder().exists()
    fetch(str(path), folder / "whole")
    whole = CliRunner().invoke(inspect.command, [str(folder / "whole"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == json.loads(whole.stdout) | {"path": str(path)}
