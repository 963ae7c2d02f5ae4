"""Directions of two deltas: the figures of whole tensors, whatever the shards, tiles and threads."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from contextgraft.adapter.analysis.adapter_alignment import align_adapter
from contextgraft.adapter.analysis.alignment import align
from contextgraft.adapter.analysis.model_triple import open_triple
from contextgraft.adapter.extract import delta
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputError, MismatchError
from contextgraft.formats.alignment import (
    AlignedAdapter,
    AlignmentResult,
    by_kind,
    by_layer,
    direction,
    summary,
    write,
)
from contextgraft.formats.sidecar import identity
from contextgraft.formats.tensor_names import TensorRole, layer_of

EVERYTHING = TensorSelection(embeddings=(TensorRole.INPUT,))


def give_tokens(folder: Path, tokens: Iterable[int]) -> None:
    """A tokenizer in whose rows those tokens stand, one after the other."""
    vocabulary = {f"token{token}": row for row, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))


@pytest.fixture(scope="module")
def worded(build: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world with tokens; the target has six more."""
    made = build(tmp_path_factory.mktemp("worded"), shards=3)
    for folder, count in ((made.base, 50), (made.donor, 50), (made.target, 56)):
        give_tokens(folder, range(count))
    return made


def whole_delta(adapter: Adapter, name: str) -> torch.Tensor:
    return adapter.entries[name].dense(lambda key: adapter.read(key).float())


def found_in(world: Any, selection: TensorSelection | None = None, threads: int = 1) -> AlignmentResult:
    return align(open_triple(world.base, world.donor, world.target, selection), threads=threads)


def test_the_figures_are_those_of_whole_tensors(world: Any) -> None:
    found = found_in(world)
    weights = {role: {n: t.double() for n, t in each.items()} for role, each in world.weights.items()}
    assert {each.name for each in found.tensors} == set(weights["base"]) - {"model.embed_tokens.weight"}
    for each in found.tensors:
        donor, target = (
            weights[role][each.name] - weights["base"][each.name] for role in ("donor", "target")
        )
        assert each.donor_norm == pytest.approx(float(donor.norm()), rel=1e-6)
        assert each.target_norm == pytest.approx(float(target.norm()), rel=1e-6)
        product = float(donor.norm() * target.norm())
        assert each.inner == pytest.approx(float((donor * target).sum()), abs=1e-6 * product)
        assert each.elements == donor.numel()
    assert found.left_out == ("model.embed_tokens.weight",)


def test_all_tensors_are_one_long_vector(world: Any) -> None:
    whole = direction("all", found_in(world).tensors)
    names = [name for name in world.weights["base"] if "embed" not in name]
    donor, target = (
        torch.cat(
            [(world.weights[r][n].double() - world.weights["base"][n].double()).reshape(-1) for n in names]
        )
        for r in ("donor", "target")
    )
    assert whole.cosine == pytest.approx(float(torch.cosine_similarity(donor, target, dim=0)), rel=1e-5)
    assert (whole.tensors, whole.elements) == (len(names), len(donor))


def test_who_was_compared(world: Any) -> None:
    models = found_in(world).models
    for role in ("base", "donor", "target"):
        assert models[role]["digest"] == identity(open_model(getattr(world, role)))["digest"]
        assert models[role]["name"] == role


def test_a_fine_tune_that_is_the_donor_goes_its_way(world: Any) -> None:
    found = align(open_triple(world.base, world.donor, world.donor))
    for each in found.tensors:
        assert direction(each.name, [each]).cosine == pytest.approx(1, abs=1e-9)
    assert all(each.beyond_chance for each in by_layer(found))


def test_a_fine_tune_that_is_the_base_goes_no_way(world: Any) -> None:
    found = align(open_triple(world.base, world.donor, world.base))
    whole = direction("all", found.tensors)
    assert (whole.target_norm, whole.cosine, whole.chance, whole.beyond_chance) == (0, None, None, False)


def test_the_opposite_way(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    base, donor = ({n: t.float() for n, t in world.weights[role].items()} for role in ("base", "donor"))
    away = {name: 2 * base[name] - donor[name] for name in base}
    target = toy.write(tmp_path / "away", away, toy.config())
    whole = direction("all", align(open_triple(world.base, world.donor, target)).tensors)
    assert whole.cosine == pytest.approx(-1, abs=1e-9)


@pytest.mark.parametrize("tile", [100, 64 * 7, 5000])
def test_tiles_do_not_matter(worded: Any, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    expected = found_in(worded, EVERYTHING)
    monkeypatch.setattr(delta, "tile_rows", lambda columns, _: max(1, tile // columns))
    for one, other in zip(found_in(worded, EVERYTHING).tensors, expected.tensors, strict=True):
        assert one.donor_norm == pytest.approx(other.donor_norm, rel=1e-6)
        assert one.inner == pytest.approx(other.inner, abs=1e-6 * one.donor_norm * max(one.target_norm, 1))


def test_shards_and_threads_do_not_matter(world: Any, build: Callable[..., Any], tmp_path: Path) -> None:
    assert found_in(world) == found_in(build(tmp_path)) == found_in(world, threads=3)


def test_embeddings_count_in_the_rows_that_all_have(worded: Any) -> None:
    found = found_in(worded, EVERYTHING)
    (each,) = [each for each in found.tensors if "embed" in each.name]
    assert each.elements == 50 * 64
    assert (each.donor_norm, each.target_norm) == (0, 0)
    assert found.left_out == ()


def test_tokens_that_moved_are_found_again(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config)
    name = "model.embed_tokens.weight"
    step = torch.randn(base[name].shape, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    donor = {**toy.moved(base, 1), name: base[name] + step}
    rows = torch.arange(50).roll(1)[:48]  # the target lacks two tokens, and all others stand elsewhere
    target = {**toy.moved(base, 2), name: (base[name] + 2 * step)[rows]}
    for role, weights, ids in (
        ("base", base, range(50)),
        ("donor", donor, range(50)),
        ("target", target, rows),
    ):
        toy.write(tmp_path / role, weights, {**config, "vocab_size": len(weights[name])})
        give_tokens(tmp_path / role, map(int, ids))
    found = align(open_triple(tmp_path / "base", tmp_path / "donor", tmp_path / "target", EVERYTHING))
    (each,) = [each for each in found.tensors if each.name == name]
    assert each.elements == 48 * 64
    kept = ((base[name] + step).double() - base[name].double())[rows]
    assert each.donor_norm == pytest.approx(float(kept.norm()), rel=1e-6)
    assert direction(name, [each]).cosine == pytest.approx(1, abs=1e-3)


def test_chance_is_what_random_directions_give() -> None:
    generator = torch.Generator().manual_seed(4)
    cosines = []
    for _ in range(400):
        parts = []
        for number, scale in ((40, 1.0), (300, 2.0)):
            donor = torch.randn(number, generator=generator) * scale
            target = torch.randn(number, generator=generator)
            parts.append((donor, target * (3 / target.norm())))
        donor, target = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        cosines.append(float(torch.cosine_similarity(donor, target, dim=0)))
    found = [
        SimpleNamespace(
            name="x", elements=number, donor_norm=scale * math.sqrt(number), target_norm=3.0, inner=0.0
        )
        for number, scale in ((40, 1.0), (300, 2.0))
    ]
    whole = direction("all", found)  # type: ignore[arg-type]  # has all attributes that are read
    assert whole.chance is not None
    assert whole.chance == pytest.approx(float(torch.tensor(cosines).std()), rel=0.1)
    assert sum(abs(cosine) > 1.96 * whole.chance for cosine in cosines) < 400 * 0.09
    assert direction("one", found[:1]).chance == pytest.approx(1 / math.sqrt(40))  # type: ignore[arg-type]


def test_groups_add_up(world: Any) -> None:
    found = found_in(world)
    layers, kinds = by_layer(found), by_kind(found)
    assert [each.name for each in layers] == ["0", "1"]
    assert "q_proj" in {each.name for each in kinds}
    assert sum(each.tensors for each in kinds) == len(found.tensors)
    assert sum(each.inner for each in kinds) == pytest.approx(direction("all", found.tensors).inner)
    assert layer_of("model.layers.17.mlp.up_proj.weight") == 17
    assert layer_of("model.norm.weight") is None


def test_json_and_parquet_say_the_same(world: Any, tmp_path: Path) -> None:
    found = found_in(world)
    data = summary(found)
    write(found, tmp_path / "align.parquet")
    rows = pq.read_table(tmp_path / "align.parquet").to_pylist()
    assert [row["tensor"] for row in rows] == sorted(data["tensors"])
    for row in rows:
        each = data["tensors"][row["tensor"]]
        assert (row["cosine"], row["inner"], row["chance"]) == (each["cosine"], each["inner"], each["chance"])
        assert row["target_digest"] == found.models["target"]["digest"]
        assert (row["adapter_digest"], row["adapter_rank"]) == (None, None)
    assert {row["layer"] for row in rows} == {0, 1, None}
    first = (tmp_path / "align.parquet").read_bytes()
    write(found_in(world, threads=2), tmp_path / "align.parquet")
    assert (tmp_path / "align.parquet").read_bytes() == first


def test_models_that_do_not_fit(world: Any, build: Callable[..., Any], tmp_path: Path) -> None:
    other = build(tmp_path / "other", hidden_size=32)
    with pytest.raises(MismatchError, match=r"another architecture.*hidden_size 64.*hidden_size 32"):
        open_triple(world.base, world.donor, other.target)
    with pytest.raises(InputError, match="no linear weights in layers that are selected"):
        open_triple(world.base, world.donor, world.target, TensorSelection(include="nothing"))


def test_a_target_that_lacks_a_tensor(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    some = {name: each for name, each in world.weights["target"].items() if "1.mlp.up_proj" not in name}
    target = toy.write(tmp_path / "some", some, toy.config(vocab_size=56))
    with pytest.raises(MismatchError, match=r"1\.mlp\.up_proj"):
        open_triple(world.base, world.donor, target)


def test_weights_that_are_no_numbers(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    wrong = {**world.weights["target"], name: world.weights["target"][name] * math.nan}
    target = toy.write(tmp_path / "wrong", wrong, toy.config(vocab_size=56))
    with pytest.raises(CheckpointError, match=r"wrong.*q_proj.*NaN"):
        align(open_triple(world.base, world.donor, target))


def test_an_adapter_of_full_rank_gives_the_figures_of_the_donor(world: Any, tmp_path: Path) -> None:
    """Factors of full rank hold all of donor minus base; of a smaller rank, its best approximation."""
    extract(open_pair(world.base, world.donor), [RankSpec(1), RankSpec(512)], tmp_path)
    expected = {tensor.name: tensor for tensor in found_in(world).tensors}
    for rank, exact in (("r512", True), ("r1", False)):
        adapter = open_adapter(tmp_path / rank)
        found = align_adapter(adapter, world.base, world.target, threads=2)
        assert found.models == found_in(world).models
        assert found.adapter == AlignedAdapter(adapter.digest, 64 if exact else 1)  # 64: the full rank
        assert {tensor.name for tensor in found.tensors} == set(expected)
        assert found.left_out == ("model.embed_tokens.weight",)
        for tensor in found.tensors:
            other = expected[tensor.name]
            assert (tensor.elements, tensor.target_norm) == (other.elements, other.target_norm)
            held = whole_delta(adapter, tensor.name)
            base, target = (world.weights[role][tensor.name].double() for role in ("base", "target"))
            assert tensor.donor_norm == pytest.approx(float(held.norm()), rel=1e-5)
            product = float(held.norm() * (target - base).norm())
            inner = float((held.reshape(base.shape) * (target - base)).sum())
            assert tensor.inner == pytest.approx(inner, abs=1e-5 * product)
            if exact:
                assert tensor.donor_norm == pytest.approx(other.donor_norm, rel=1e-2)
                assert tensor.inner == pytest.approx(other.inner, abs=1e-2 * product)


def test_another_base_than_the_adapters_is_refused(world: Any, tmp_path: Path) -> None:
    extract(open_pair(world.base, world.donor), [RankSpec(1)], tmp_path)
    with pytest.raises(MismatchError, match="is not the base of the adapter"):
        align_adapter(open_adapter(tmp_path / "r1"), world.target, world.donor)
