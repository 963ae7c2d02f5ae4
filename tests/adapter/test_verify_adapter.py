"""An adapter is verified against its base and donor; every kind of difference is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextgraft.adapter.verify.adapter import verify_adapter
from contextgraft.errors import CheckpointError, InputError


@pytest.fixture
def adapter(world: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.adapters / "r4", tmp_path / "r4"))


def failing(path: Path, world: Any) -> list[str]:
    checks = verify_adapter(path, world.base, world.donor, threads=2)
    assert [check.name for check in checks] == ["base", "donor", "rope", "modules", "dense"]
    return [check.name for check in checks if not check.holds]


def test_an_honest_adapter_holds(adapter: Path, world: Any) -> None:
    assert failing(adapter, world) == []
    swapped = verify_adapter(adapter, world.base, world.base)
    assert [check.name for check in swapped if not check.holds] == ["donor", "rope", "modules", "dense"]


def scaled(file: str, key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = load_file(path / file)
        save_file({k: t * 1.1 if key in k else t for k, t in tensors.items()}, path / file)

    return change


def claims(*keys: str, value: float = 0.001) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = json.loads((path / "contextgraft.json").read_text())
        place = data
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (path / "contextgraft.json").write_text(json.dumps(data))

    return change


UP = "model.layers.0.mlp.up_proj"
LIES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a factor": (scaled("adapter_model.safetensors", f"{UP}.lora_A"), ["modules"]),
    "a dense delta": (scaled("contextgraft.safetensors", "model.norm"), ["dense"]),
    "an error": (claims("modules", UP, "error"), ["modules"]),
    "a norm": (claims("modules", UP, "delta_norm"), ["modules"]),
    "a digest": (claims("donor", "digest"), ["donor"]),
    "the whole error": (claims("error"), ["modules"]),
    "the whole norm": (claims("delta_norm"), ["modules"]),
    "the rank": (claims("rank", value=3), ["modules"]),
    "the length": (claims("max_length", value=3), ["rope"]),
    "the architecture": (claims("architecture", "hidden_size"), ["rope"]),
}


@pytest.mark.parametrize("kind", LIES)
def test_every_lie_is_found(adapter: Path, world: Any, kind: str) -> None:
    lie, expected = LIES[kind]
    lie(adapter)
    assert failing(adapter, world) == expected


def test_a_delta_that_nobody_extracted_is_refused(adapter: Path, world: Any) -> None:
    dense = load_file(adapter / "contextgraft.safetensors")
    save_file(dense | {"model.embed_tokens.weight": torch.ones(50, 64)}, adapter / "contextgraft.safetensors")
    with pytest.raises(CheckpointError, match=r"other tensors than its sidecar lists.*embed_tokens"):
        verify_adapter(adapter, world.base, world.donor)


def test_an_adapter_without_a_sidecar_cannot_be_verified(adapter: Path, world: Any) -> None:
    (adapter / "contextgraft.json").unlink()
    (adapter / "contextgraft.safetensors").unlink()
    with pytest.raises(InputError, match="compare"):
        verify_adapter(adapter, world.base, world.donor)
