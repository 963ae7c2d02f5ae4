"""Tiles of a delta: the same numbers in every pass, however much is kept and however rows correspond."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.extract import delta as delta_module
from contextgraft.adapter.extract.delta import Delta, runs
from contextgraft.checkpoint.digest import tensor_digest
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.checkpoint.reader import read_tensor

NAME = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def models(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelFolder]:
    path: Path = tmp_path_factory.mktemp("delta")
    config = toy.config()
    base, donor = toy.weights(config, 1), toy.weights(config, 2)
    return open_model(toy.write(path / "b", base, config)), open_model(toy.write(path / "d", donor, config))


def whole(model: ModelFolder) -> torch.Tensor:
    return read_tensor(model, NAME).float()


@pytest.mark.parametrize("kept_tiles", [0, 1, 3, 7, 8, 100])
def test_every_pass_sees_the_same(
    models: tuple[ModelFolder, ModelFolder], monkeypatch: pytest.MonkeyPatch, kept_tiles: int
) -> None:
    monkeypatch.setattr(delta_module, "tile_rows", lambda *_: 7)
    base, donor = models
    buffers = Buffers()
    delta = Delta(base, donor, NAME, buffers, kept_tiles * 7 * 64 * 4)
    expected = whole(donor) - whole(base)
    for _ in range(3):
        tiles = [tile.clone() for tile in delta.tiles()]
        assert [len(tile) for tile in tiles] == [7] * 7 + [1]
        assert torch.equal(torch.cat(tiles), expected)
    assert delta.squares() == pytest.approx(float(expected.double().square().sum()), rel=1e-7)
    assert delta.measure.base_digest == tensor_digest(base, NAME)
    assert delta.measure.donor_digest == tensor_digest(donor, NAME)
    assert delta.measure.base_norm == pytest.approx(float(whole(base).norm()), rel=1e-6)


@pytest.mark.parametrize("kept_tiles", [0, 2, 100])
def test_rows_find_their_partners(
    models: tuple[ModelFolder, ModelFolder], monkeypatch: pytest.MonkeyPatch, kept_tiles: int
) -> None:
    monkeypatch.setattr(delta_module, "tile_rows", lambda *_: 7)
    base, donor = models
    rows = [*range(10, 30), -1, -1, *range(9, -1, -1), *range(30, 48)]
    delta = Delta(base, donor, NAME, Buffers(), kept_tiles * 7 * 64 * 4, rows)
    index = torch.tensor(rows)
    expected = torch.where(index[:, None] >= 0, whole(donor)[index.clamp(min=0)] - whole(base), 0.0)
    for _ in range(2):
        assert torch.equal(torch.cat([tile.clone() for tile in delta.tiles()]), expected)
    assert delta.measure.donor_digest == tensor_digest(donor, NAME)


@given(st.lists(st.integers(-1, 6), max_size=30))
def test_runs_cover_each_row_once(rows: list[int]) -> None:
    found = [-1] * len(rows)
    for place, first, count in runs(rows):
        assert count > 0
        for step in range(count):
            assert found[place + step] == -1
            found[place + step] = first + step
    assert found == rows
