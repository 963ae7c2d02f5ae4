"""`contextgraft train` in many processes against one: the whole curve and the final weights."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.errors import CheckpointError
from contextgraft.sources.fetch import fetch
from contextgraft.training.trainer import TrainingOptions, train

from ...command_server import command_server
from ..conftest import curve, write_demos_donor, write_recipe
from .conftest import COMMAND, error_line, finish, start, start_ranks

WORLDS: dict[str, tuple[int, int, list[str]]] = {
    "1": (1, 1, []),
    "2 flat": (2, 2, ["--rows-at-once", "3", "--sync-gradients-once"]),
    "2 torch": (2, 2, ["--layout", "torch"]),
    "4 usp": (4, 2, []),
    "8 double": (8, 4, ["--layout", "double"]),
    "4 double, replicas": (4, 2, ["--layout", "double", "--ranks-per-node", "1", "--context-parallel", "2"]),
}
T = TypeVar("T")


def chosen(names: Iterable[T], *fast: T) -> list[Any]:
    """All of the names; only the fast ones run by default."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


def assert_equal(one: Path, other: Path, *, loss: float, weights: float) -> None:
    for mine, theirs in zip(curve(one), curve(other), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=loss), (mine, theirs)
        assert {**mine, "loss": 0} == {**theirs, "loss": 0}
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, weight in mine.items():
        assert (weight - theirs[name]).norm() <= weights * theirs[name].norm(), name


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The demo's donor, its recipe shortened, on its base in float32: recipe, base, result of one process."""
    folder = tmp_path_factory.mktemp("donor")
    base = folder / "base"
    fetch("demo:base", base)
    weights = load_file(base / "model.safetensors")
    save_file({name: value.float() for name, value in weights.items()}, base / "model.safetensors")
    config = write_demos_donor(folder / "recipes")
    train(config, base, folder / "alone", TrainingOptions(measures=folder / "alone.parquet"))
    return config, base, folder / "alone"


@pytest.mark.parametrize("name", chosen(WORLDS, "2 flat"))
def test_the_donor_is_the_same_on_any_number_of_ranks(
    donor: tuple[Path, Path, Path], tmp_path: Path, name: str
) -> None:
    config, base, alone = donor
    world, per_node, options = WORLDS[name]
    out = tmp_path / "out"
    measures = tmp_path / "measures.parquet"
    files = ["--config", config, "--base", base, "--out", out, "--measures", measures]
    command = [*COMMAND, *map(str, files), *options]
    said = finish(start_ranks(command, world, per_node))
    assert f"{world} processes" in said[0].err
    assert not any(rank.err + rank.out for rank in said[1:])
    assert_equal(out, alone, loss=2e-6, weights=1e-5)
    mine, theirs = (pq.read_table(file) for file in (measures, alone.with_suffix(".parquet")))
    assert mine["gradient_norm"].to_pylist() == pytest.approx(theirs["gradient_norm"].to_pylist(), rel=1e-5)
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("world", "forked"), [(2, True), (1, False), (2, False), (4, False)])
def test_torchrun_trains_the_same_donor(
    donor: tuple[Path, Path, Path], tmp_path: Path, world: int, *, forked: bool
) -> None:
    """It starts Python for each rank; by default, forked processes that need not import anything."""
    config, base, alone = donor
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    options = ["--config", config, "--base", base, "--out", tmp_path / "out"]
    program = ["--no-python", str(command_server("contextgraft").command), *COMMAND[3:]]
    command = [COMMAND[0], *launcher, *(program if forked else COMMAND[1:]), *map(str, options)]
    (said,) = finish([start(command, os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})])
    assert f"{world} processes, 1 x {world} on a sequence, layout flat" in said.err
    assert_equal(tmp_path / "out", alone, loss=2e-6, weights=1e-5)


CHANGES: dict[str, dict[str, Any]] = {
    "documents": {"data": [{"kind": "documents", "files": ["book.jsonl"]}]},
    "lora": {"lora": {"rank": 4, "alpha": 8}, "trainable": ["linear", "norms"]},
    "frozen rows": {"frozen_rows": 20, "activation_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world"), [*((name, 2) for name in CHANGES), ("lora", 4), ("lora", 8)])
def test_what_moves_is_the_same(
    sharded: Path, recipe_folder: Path, tmp_path: Path, name: str, world: int
) -> None:
    config = write_recipe(recipe_folder, **CHANGES[name])
    train(config, sharded, tmp_path / "alone")
    command = [*COMMAND, "--config", str(config), "--base", str(sharded), "--out", str(tmp_path / "out")]
    finish(start_ranks(command, world))
    assert_equal(tmp_path / "out", tmp_path / "alone", loss=2e-6, weights=2e-5)
    before = {
        name: value for shard in sharded.glob("*.safetensors") for name, value in load_file(shard).items()
    }
    after = load_file(tmp_path / "out/model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key for key in before if "proj" in key or "norm" in key} <= changed
    if name == "lora":
        assert not any("embed" in key or "lm_head" in key for key in changed)
    if name == "frozen rows":
        assert torch.equal(before["model.embed_tokens.weight"][:20], after["model.embed_tokens.weight"][:20])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_logits_in_pieces_are_the_same(
    sharded: Path, recipe_folder: Path, tmp_path: Path, *, tied: bool
) -> None:
    """Of 4,200 words a rank makes the logits of 1,024 of its 2,048 tokens at a time."""
    base = tmp_path / "base"
    shutil.copytree(sharded, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{**config, "vocab_size": 4200, "tie_word_embeddings": tied}),
        dtype=torch.float32,
    )
    model.save_pretrained(base)
    (base / "model.safetensors.index.json").unlink()
    recipe = write_recipe(
        recipe_folder,
        stages=[{"length": 1024, "steps": 2, "tokens": 4096}],
        data=[{"kind": "repeat", "first": 2}],
        replay={},
    )
    train(recipe, base, tmp_path / "alone")
    command = [*COMMAND, "--config", str(recipe), "--base", str(base), "--out", str(tmp_path / "out")]
    finish(start_ranks(command, 2))
    assert_equal(tmp_path / "out", tmp_path / "alone", loss=2e-6, weights=2e-5)


@pytest.mark.slow
def test_bfloat16_learns_the_same_but_for_its_bits(donor: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, base, alone = donor
    out = tmp_path / "out"
    command = [*COMMAND, "--config", str(config), "--base", str(base), "--out", str(out)]
    finish(start_ranks([*command, "--dtype", "bfloat16"], 2))
    known = [json.loads((folder / "contextgraft.json").read_text()) for folder in (out, alone)]
    assert [each.get("dtype") for each in known] == ["bfloat16", None]
    for mine, theirs in zip(curve(out), curve(alone), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.05)


def test_options_of_many_processes_need_many(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    files = [
        "--config",
        str(recipe_folder / "recipe.yaml"),
        "--base",
        str(base),
        "--out",
        str(tmp_path / "o"),
    ]
    (said,) = finish([start([*COMMAND, *files, "--layout", "flat"])], status=2)
    assert "--layout needs processes started by torchrun" in said.err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--context-parallel", "3"], "expected a divisor of 2; received 3"),
        (["--layout", "usp"], "use layout double"),
    ],
)
def test_a_mistake_is_one_line_of_one_rank(
    base: Path, recipe_folder: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    files = [
        "--config",
        str(recipe_folder / "recipe.yaml"),
        "--base",
        str(base),
        "--out",
        str(tmp_path / "o"),
    ]
    said = finish(start_ranks([*COMMAND, *files, *options], 2), status=2)
    assert line in error_line(said)


def test_a_checkpoint_of_many_that_is_torn_is_named(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".out.partial/checkpoints/step-00000003"
    folder.mkdir(parents=True)
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="step-00000003: cannot be read"):
        train(recipe_folder / "recipe.yaml", base, tmp_path / "out")
