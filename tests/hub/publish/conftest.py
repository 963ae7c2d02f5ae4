"""An adapter and a graft, made once, and the client of somebody who may write to the hub of the tests."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.sources.hub.client import Hub

if TYPE_CHECKING:
    from tests.hub.server import HubServer


@dataclass(frozen=True)
class Made:
    """An adapter and a graft of it."""

    adapter: Path
    graft: Path
    target: Path


@pytest.fixture(scope="session")
def once(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Made once; not to be written to."""
    root = tmp_path_factory.mktemp("made")
    base = toy.weights(toy.config())
    longer = toy.config(rope_theta=4e4, max_position_embeddings=1024)
    folders = {
        "base": toy.write(root / "base", base, toy.config()),
        "donor": toy.write(root / "donor", toy.moved(base, 1), longer),
        "target": toy.write(root / "target", toy.moved(base, 2, 0.005), toy.config(), shards=2),
    }
    record = {
        "kind": "source",
        "format": 2,
        "name": "base",
        "source": "hf:owner/base@main",
        "revision": "a" * 40,
    }
    (folders["base"] / "contextgraft.json").write_text(json.dumps(record))
    extract(open_pair(folders["base"], folders["donor"]), [RankSpec(4)], root / "adapters")
    adapter = root / "adapters/r4"
    merge(plan_merge([ScaledAdapter(open_adapter(adapter), 1.0)], folders["target"]), root / "graft")
    return Made(adapter, root / "graft", folders["target"])


@pytest.fixture
def made(once: Made, tmp_path: Path) -> Made:
    """A copy that a test may spoil."""
    root = shutil.copytree(once.adapter.parents[1], tmp_path / "made")
    return Made(root / "adapters/r4", root / "graft", root / "target")


@pytest.fixture
def owner(server: "HubServer", hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The client of somebody who may write; over LFS, for our hub has no Xet storage."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own patience
    api = HfApi(endpoint=server.url, token=server.token)
    return Hub(api=api, progress=hub.progress, retry_delays=hub.retry_delays)


def spoil(path: Path) -> None:
    """Other bytes in the same file."""
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))
