"""Extraction: facts in the sidecar, nested ranks, the same bytes by every way, clean refusals."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contextgraft.adapter.analysis.compatibility import check_compatibility
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputError, MismatchError, OutputError


def factors(world: Any, rank: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(world.adapters / f"r{rank}" / "adapter_model.safetensors")
    return tensors


def sidecar(world: Any, rank: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((world.adapters / f"r{rank}" / "contextgraft.json").read_text())
    return data


def test_ranks_are_slices_of_one_another(world: Any) -> None:
    big = factors(world, 8)
    for rank in (2, 4):
        small = factors(world, rank)
        assert small.keys() == big.keys()
        for key, tensor in small.items():
            whole = big[key][:rank] if "lora_A" in key else big[key][:, :rank]
            assert torch.equal(tensor, whole)


def test_energy_and_error_are_facts(world: Any) -> None:
    for rank in (2, 8):
        record = sidecar(world, rank)
        tensors = factors(world, rank)
        whole = left = 0.0
        for module, facts in record["modules"].items():
            D = (
                world.weights["donor"][f"{module}.weight"].float()
                - world.weights["base"][f"{module}.weight"].float()
            ).double()
            key = f"base_model.model.{module}.lora_"
            rest = D - tensors[f"{key}B.weight"].double() @ tensors[f"{key}A.weight"].double()
            assert facts["delta_norm"] == pytest.approx(float(D.norm()), rel=1e-6)
            assert facts["error"] == pytest.approx(
                float(rest.norm() / D.norm()), abs=5e-3
            )  # factors are bfloat16
            assert facts["energy"] == pytest.approx(1 - facts["error"] ** 2)
            optimum = float(torch.linalg.svdvals(D)[rank:].norm() / D.norm())
            assert facts["error"] <= 1.005 * optimum
            whole, left = whole + float(D.norm()) ** 2, left + float(rest.norm()) ** 2
        assert record["delta_norm"] == pytest.approx(math.sqrt(whole), rel=1e-6)
        assert record["error"] == pytest.approx(math.sqrt(left / whole), abs=5e-3)


def test_the_sidecar_says_who_and_how_far(world: Any) -> None:
    record = sidecar(world, 4)
    assert (record["kind"], record["format"], record["rank"], record["max_length"]) == ("adapter", 2, 4, 1024)
    assert record["base"]["digest"] == model_digest(open_model(world.base))
    assert record["donor"]["digest"] == model_digest(open_model(world.donor))
    assert record["rope"]["donor"] == {
        "theta": 4e4,
        "max_positions": 1024,
        "rope_type": "default",
        "extra": {},
        "fraction": 1.0,
    }
    assert len(record["modules"]) == 14
    assert set(record["dense"]) == {name for name in world.weights["base"] if "norm" in name}


def test_norms_travel_as_dense_deltas_in_float32(world: Any) -> None:
    dense = load_file(world.adapters / "r2" / "contextgraft.safetensors")
    for name, delta in dense.items():
        assert delta.dtype == torch.float32
        assert torch.equal(delta, world.weights["donor"][name].float() - world.weights["base"][name].float())


@pytest.mark.parametrize(
    "way",
    [{"threads": 2}, {"cache_bytes": 0}, {"cache_bytes": 0, "threads": 3}],
    ids=["threads", "reread", "both"],
)
def test_every_way_gives_the_same_bytes(
    build: Callable[..., Any], toy: SimpleNamespace, tmp_path: Path, way: dict[str, Any]
) -> None:
    wide = {"hidden_size": 320, "intermediate_size": 600, "num_hidden_layers": 1}
    plain, other = build(tmp_path / "a", **wide), build(tmp_path / "b", shards=4, **wide)
    extract(open_pair(plain.base, plain.donor), [RankSpec(4), RankSpec(16)], plain.adapters)
    extract(
        open_pair(other.base, other.donor), [RankSpec(16), RankSpec(4), RankSpec(4)], other.adapters, **way
    )
    assert toy.contents(plain.adapters) == toy.contents(other.adapters)


def test_float32_models_get_float32_factors(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path, dtype=torch.float32)
    extract(open_pair(made.base, made.donor), [RankSpec(12)], made.adapters)
    assert {tensor.dtype for tensor in factors(made, 12).values()} == {torch.float32}
    assert sidecar(made, 12)["error"] < 1e-3  # the delta has rank 12


def test_ranks_above_a_matrix_are_clamped(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    extract(open_pair(made.base, made.donor), [RankSpec(48)], made.adapters)
    config = json.loads((made.adapters / "r48" / "adapter_config.json").read_text())
    assert config["r"] == 48
    assert set(config["rank_pattern"].values()) == {32}
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert len(config["rank_pattern"]) == 4


def test_modules_without_a_delta_are_left_out(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config)
    donor = toy.moved(base, 1) | {
        "model.layers.0.mlp.up_proj.weight": base["model.layers.0.mlp.up_proj.weight"]
    }
    models = open_pair(toy.write(tmp_path / "b", base, config), toy.write(tmp_path / "d", donor, config))
    record = extract(models, [RankSpec(2)], tmp_path / "out")["r2"]
    assert record["modules"]["model.layers.0.mlp.up_proj"] == {
        "rank": 0, "energy": 1.0, "error": 0.0, "excess": 1.0, "delta_norm": 0.0, "relative_delta": 0.0,
    }  # fmt: skip
    targets = json.loads((tmp_path / "out" / "r2" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 13
    assert "model.layers.1.mlp.up_proj" in targets


def test_embeddings_that_differ_are_reported(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config)
    donor = toy.moved(base, 1)
    donor["model.embed_tokens.weight"] = base["model.embed_tokens.weight"] + 1
    donor["lm_head.weight"] = base["model.embed_tokens.weight"].clone()
    models = open_pair(toy.write(tmp_path / "b", base, config), toy.write(tmp_path / "d", donor, config))
    ignored = extract(models, [RankSpec(2)], tmp_path / "out")["r2"]["ignored"]
    assert ignored["model.embed_tokens.weight"]["delta_norm"] > 50
    assert "not in both" in ignored["lm_head.weight"]


def test_ranks_can_be_added_later_but_not_overwritten(
    world: Any, build: Callable[..., Any], tmp_path: Path
) -> None:
    made = build(tmp_path)
    models = open_pair(made.base, made.donor)
    extract(models, [RankSpec(2)], made.adapters)
    before = (made.adapters / "r2" / "adapter_model.safetensors").read_bytes()
    extract(models, [RankSpec(4)], made.adapters)
    with pytest.raises(OutputError, match="r2: already exists"):
        extract(models, [RankSpec(2), RankSpec(8)], made.adapters)
    assert (made.adapters / "r2" / "adapter_model.safetensors").read_bytes() == before
    assert sorted(path.name for path in made.adapters.iterdir()) == ["r2", "r4"]
    (made.adapters / "r2" / "stale").touch()
    extract(models, [RankSpec(2), RankSpec(8)], made.adapters, replace=True)
    assert (made.adapters / "r2" / "adapter_model.safetensors").read_bytes() == before
    assert not (made.adapters / "r2" / "stale").exists()
    assert sorted(path.name for path in made.adapters.iterdir()) == ["r2", "r4", "r8"]
    assert not list(tmp_path.glob(".*"))


def spoil(kind: str, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    spoilers: dict[str, Callable[[], object]] = {
        "nan": lambda: tensors[name][3].fill_(float("nan")),
        "infinite norm": lambda: tensors["model.norm.weight"][0].fill_(float("inf")),
        "shape": lambda: tensors.update({name: tensors[name][:, :8].contiguous()}),
        "missing": lambda: tensors.pop(name),
        "more": lambda: tensors.update({"model.layers.1.x.weight": torch.ones(2, 2)}),
        "layers": lambda: config.update(num_hidden_layers=3),
        "model type": lambda: config.update(model_type="qwen2"),
        "heads": lambda: config.update(num_key_value_heads=4),
        "fused": lambda: tensors.update({"model.layers.0.mlp.experts.weight": torch.ones(2, 3, 4)}),
        "more dimensions": lambda: tensors.update(
            {"model.layers.0.mlp.experts.weight": torch.ones(2, 3, 4, 5)}
        ),
        "quantised": lambda: tensors.update({name: torch.ones(tensors[name].shape, dtype=torch.int8)}),
        "no positions": lambda: config.update(max_position_embeddings=0),
    }
    spoilers[kind]()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (
            "nan",
            CheckpointError,
            r"d/model.safetensors: tensor 'model.layers.1.mlp.down_proj.weight' holds NaN",
        ),
        ("infinite norm", CheckpointError, "holds NaN or infinite"),
        (
            "shape",
            MismatchError,
            r"d: does not fit the base .*/b at tensor .*expected shape \[64, 96\].*\[64, 8\]",
        ),
        ("missing", MismatchError, "no such tensor"),
        ("more", MismatchError, "lacks tensor 'model.layers.1.x.weight'"),
        (
            "layers",
            MismatchError,
            r"d: has another architecture than the base .*/b; expected num_hidden_layers 2",
        ),
        ("model type", MismatchError, "received model_type qwen2"),
        ("heads", MismatchError, "num_key_value_heads"),
        ("fused", MismatchError, "lacks tensor 'model.layers.0.mlp.experts.weight'.*stacked in one"),
        ("more dimensions", CheckpointError, "experts.weight' cannot be factorised"),
        ("quantised", CheckpointError, "I8"),
        ("no positions", InputError, "max_position_embeddings"),
    ],
)
def test_bad_donors_are_refused_and_nothing_is_left(
    toy: SimpleNamespace, tmp_path: Path, kind: str, error: type[Exception], words: str
) -> None:
    config = toy.config()
    base = toy.weights(config)
    donor = {name: tensor.clone() for name, tensor in toy.moved(base, 1).items()}
    paths = toy.write(tmp_path / "b", base, config), tmp_path / "d"
    spoil(kind, donor, config)
    toy.write(tmp_path / "d", donor, config)
    with pytest.raises(error, match=words) as caught:
        extract(open_pair(*paths), [RankSpec(2)], tmp_path / "out", threads=2)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "d"]


def test_equal_models_have_no_delta(world: Any, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="nothing to extract"):
        extract(open_pair(world.base, world.base), [RankSpec(2)], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_heads_of_training_next_to_the_base_or_the_donor_are_left_out(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    config = toy.config()
    base = toy.weights(config)
    heads = {"v_head.summary.weight": torch.ones(1, 64), "medusa_head.0.1.weight": torch.ones(50, 64)}
    both = (
        toy.write(tmp_path / "b", base | heads, config),
        toy.write(tmp_path / "d", toy.moved(base, 1) | {"score.weight": torch.ones(2, 64)}, config),
    )
    pair = open_pair(*both)
    assert set(pair.unpaired) == {*heads, "score.weight"}
    assert check_compatibility(open_model(both[0]), open_model(both[1])).missing == ()


def test_a_compiled_base_has_plain_names_in_the_adapter(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in base.items()}
    pair = open_pair(
        toy.write(tmp_path / "b", wrapped, config), toy.write(tmp_path / "d", toy.moved(base, 1), config)
    )
    assert set(pair.base.tensors) == set(base)
    extract(pair, [RankSpec(64)], tmp_path / "out")
    assert open_adapter(tmp_path / "out/r64").entries.keys() <= base.keys()


def test_an_adapter_next_to_the_weights_of_base_or_donor_is_a_warning(world: Any, tmp_path: Path) -> None:
    shutil.copytree(world.donor, tmp_path / "d")
    (tmp_path / "d/adapter_config.json").write_text("{}")
    (said,) = open_pair(world.base, tmp_path / "d").warnings
    assert "holds an adapter" in said


def test_models_without_layers_are_refused(toy: SimpleNamespace, tmp_path: Path) -> None:
    path = toy.write(tmp_path / "m", {"x.weight": torch.ones(2, 2)}, toy.config())
    with pytest.raises(InputError, match="no linear weights"):
        open_pair(path, path)
