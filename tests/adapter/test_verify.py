"""Verification finds every kind of difference, and holds where there is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.manifest import file_facts
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "graft"
    merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target), path)
    return path


@pytest.fixture
def graft(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "graft"))


def failing(path: Path, **more: Any) -> list[str]:
    return [check.name for check in verify(path, **more) if not check.holds]


def test_an_honest_graft_holds(graft: Path, world: Any) -> None:
    assert failing(graft) == []
    checks = verify(graft, target=world.target, adapters=[world.adapters / "r4"])
    assert all(check.holds for check in checks), checks
    assert [check.name for check in checks][-3:] == ["adapters", "target", "recomputed"]


def test_another_target_or_adapter_is_found(graft: Path, world: Any) -> None:
    assert failing(graft, adapters=[world.adapters / "r8"]) == ["adapters"]
    assert failing(graft, target=world.base) == ["target"]
    assert failing(graft, target=world.target, adapters=[world.adapters / "r8"]) == ["adapters", "recomputed"]


def test_a_path_that_publish_shortened_is_no_difference(world: Any, tmp_path: Path) -> None:
    """`publish` writes the name of a folder where a config has the path of one; other words differ."""
    target = Path(shutil.copytree(world.target, tmp_path / "target"))
    write_name(target, "/home/someone/models/my-tune")
    merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target), tmp_path / "graft")
    write_name(tmp_path / "graft", "my-tune")
    assert failing(tmp_path / "graft", target=target) == []
    write_name(tmp_path / "graft", "another")
    assert failing(tmp_path / "graft", target=target) == ["target"]


def write_name(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
    sidecar = folder / "contextgraft.json"
    if sidecar.exists():
        record = json.loads(sidecar.read_text())
        record["files"]["config.json"] = file_facts(folder / "config.json")
        sidecar.write_text(json.dumps(record))


def flip(path: Path) -> None:
    model = open_model(path)
    info = model["model.layers.1.mlp.up_proj.weight"]
    raw = bytearray((path / info.shard).read_bytes())
    raw[info.begin] ^= 1
    (path / info.shard).write_bytes(raw)


def cut(path: Path) -> None:
    shard = path / open_model(path).shards[0]
    shard.write_bytes(shard.read_bytes()[:-1])


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(data | changes))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a bit of a weight": (flip, {"tensors"}),
    "a truncated shard": (cut, {"files", "layout"}),
    "theta": (edit("config.json", rope_theta=1e4), {"files", "rope"}),
    "theta for new readers": (edit("config.json", rope_parameters={"rope_theta": 1e4}), {"files", "rope"}),
    "positions": (edit("config.json", max_position_embeddings=128), {"files", "rope"}),
    "tokenizer": (edit("tokenizer_config.json", model_max_length=128), {"files", "tokenizer"}),
    "a file more": (lambda path: (path / "more").touch(), {"files"}),
    "a file less": (lambda path: (path / "tokenizer.json").unlink(), {"files"}),
    "malformed manifest": (edit("contextgraft.json", tensors={}, files=[]), {"files", "tensors"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_found(graft: Path, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    damage(graft)
    assert set(failing(graft)) == expected


def test_a_config_that_is_not_the_targets_is_found(graft: Path, world: Any) -> None:
    edit("config.json", rms_norm_eps=0.5)(graft)
    manifest = json.loads((graft / "contextgraft.json").read_text())
    manifest["files"]["config.json"] = file_facts(graft / "config.json")
    (graft / "contextgraft.json").write_text(json.dumps(manifest))
    assert failing(graft) == []
    assert failing(graft, target=world.target) == ["target"]


def test_a_forged_norm_is_found_by_computing_again(graft: Path, world: Any) -> None:
    manifest = json.loads((graft / "contextgraft.json").read_text())
    manifest["tensors"]["model.layers.0.mlp.up_proj.weight"]["survived_norm"] *= 2
    (graft / "contextgraft.json").write_text(json.dumps(manifest))
    assert failing(graft) == []
    assert failing(graft, target=world.target, adapters=[world.adapters / "r4"]) == ["recomputed"]


def test_a_folder_that_is_no_graft(world: Any) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        verify(world.target)
    with pytest.raises(CheckpointError, match="another kind"):
        verify(world.adapters / "r4")
