"""A working folder with three small models: `base`, its long-context `donor` and another `fine-tune`."""

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def models(tmp_path: Path, toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = toy.config()
    longer = toy.config(max_position_embeddings=512, rope_theta=80000.0)
    weights = toy.weights(settings)
    toy.write(tmp_path / "base", weights, settings)
    toy.write(tmp_path / "donor", toy.moved(weights, 1), longer)
    toy.write(tmp_path / "fine-tune", toy.moved(weights, 2), settings)
    monkeypatch.chdir(tmp_path)
    return tmp_path
