"""Sources in place of folders, fetched once into a cache that is listed and removed; known adapters."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import cache, inspect
from contextgraft.errors import InputError
from contextgraft.sources.cache import cache_folder, cached_models, clear_cache, local_folder
from contextgraft.sources.hub.client import Hub
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
