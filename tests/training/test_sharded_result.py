"""The weights of a result above --max-shard-size: the same tensors in several files, gathered one by one."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from .conftest import write_recipe, write_recipe_folder
from .parallel.conftest import COMMAND, environments, error_line, finish, start, start_ranks, work_folder

SCRIPT = Path(__file__).parent / "parallel/counted_export.py"
SIZE = 4000  # bytes
INDEX = "model.safetensors.index.json"
RUNS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"rank": 2, "alpha": 3}, "trainable": ["linear", "norms", "embeddings"]},
}


def command(recipe: Path, base: Path, out: Path, *more: object) -> list[str]:
    files = ["--config", recipe, "--base", base, "--out", out]
    return list(map(str, ["train", "--threads", "1", *files, *more]))


def counted(words: list[str], out: Path, world: int | None, killed_at: int = 0) -> Any:
    """The processes of a run by `counted_export.py`, which may kill itself."""
    line = [sys.executable, str(SCRIPT), str(out), str(killed_at), *words]
    return [start(line)] if world is None else start_ranks(line, world)


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module", params=[*RUNS])
def whole(
    request: pytest.FixtureRequest, sharded: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The recipe, and its result by one process in one file."""
    folder = tmp_path_factory.mktemp("whole")
    stages = [{"length": 32, "steps": 3, "tokens": 64}]
    recipe = write_recipe(write_recipe_folder(folder / "recipes"), stages=stages, **RUNS[request.param])
    finish([start([*COMMAND[:3], *command(recipe, sharded, folder / "out")])])
    return recipe, folder / "out"


def test_transformers_loads_the_same_tensors(whole: tuple[Path, Path], sharded: Path, tmp_path: Path) -> None:
    """Everything but the weights' files is the same, byte for byte; one weight at a time is in memory."""
    recipe, one = whole
    said, out = tmp_path / "said.json", tmp_path / "out"
    finish(counted(command(recipe, sharded, out, "--max-shard-size", SIZE), said, None))
    mine, theirs = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict() for folder in (out, one)
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    weights, index = load_file(one / "model.safetensors"), json.loads((out / INDEX).read_text())
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in weights.values())}
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    for shard in shards:
        sizes = [value.nbytes for value in load_file(out / shard).values()]
        assert sum(sizes) <= SIZE or len(sizes) == 1
    rest, others = read(out), read(one)
    for name in (*shards, INDEX):
        rest.pop(name)
    others.pop("model.safetensors")
    assert rest == others
    factors = (one / "adapter").exists()
    assert json.loads(said.read_text())["most"] == (2 if factors else 1)  # of a matrix


@pytest.mark.parametrize("world", [None, 2])
def test_killed_while_it_is_written_nothing_is_there_and_a_rerun_ends_the_same(
    whole: tuple[Path, Path], sharded: Path, tmp_path: Path, world: int | None
) -> None:
    """Two ranks gather one weight at a time, too. The rerun may write another number of files."""
    recipe, _ = whole
    out, said = tmp_path / "out", tmp_path / "said.json"
    words = command(recipe, sharded, out, "--max-shard-size", SIZE)
    processes = counted(words, said, world, killed_at=20)
    assert processes[0].wait() == -9
    if world is not None:
        assert "another process of the run has ended" in error_line(finish(processes[1:], status=2))
    assert not out.exists()
    assert list(work_folder(out).glob("model-*"))
    copy = tmp_path / "copy"
    shutil.copytree(work_folder(out), work_folder(copy))
    finish(counted(words, said, world))
    factors = (out / "adapter").exists()
    assert json.loads(said.read_text())["most"] == (2 if factors else 1)
    assert not work_folder(out).exists()
    undisturbed = tmp_path / "undisturbed"
    finish(counted(command(recipe, sharded, undisturbed, "--max-shard-size", SIZE), said, world))
    assert read(out) == read(undisturbed)
    finish(counted(command(recipe, sharded, copy), said, world))
    assert not [name for name in read(copy) if name.startswith(("model-", ".model", INDEX))]
    tensors = {
        name: value for shard in out.glob("model-*.safetensors") for name, value in load_file(shard).items()
    }
    one = load_file(copy / "model.safetensors")
    assert tensors.keys() == one.keys()
    assert all(torch.equal(tensors[name], one[name]) for name in one)


@pytest.mark.slow
def test_a_disk_that_is_full_while_two_ranks_write_it_is_one_line(
    sharded: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    """The error is raised in the thread that asks for weights; the checkpoint was complete before."""
    stages = [{"length": 32, "steps": 1, "tokens": 64}]
    out = tmp_path / "out"
    words = command(write_recipe(recipe_folder, stages=stages), sharded, out)
    for process in counted(words, tmp_path / "said.json", 2, killed_at=1):
        process.wait()
    line = [*COMMAND[:3], *words]
    processes = [start(line, environment, file_bytes=8000) for environment in environments(2)]
    assert f"{out}: cannot be written" in error_line(finish(processes, status=2))
    assert not out.exists()
    assert not list(work_folder(out).glob("*model*"))


def test_other_weights_of_the_base_are_not_copied(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    """With them readers would load the base, or files that are not there."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(sharded, base)
    for name in ("pytorch_model.bin", "model-00001-of-00009.safetensors", "consolidated.safetensors"):
        (base / name).touch()
    (base / "notes.txt").write_text("of its author", encoding="utf-8")
    finish([start([*COMMAND[:3], *command(recipe_folder / "recipe.yaml", base, out)])])
    weights = [path.name for path in out.iterdir() if path.suffix in (".bin", ".safetensors")]
    assert weights == ["model.safetensors"]
    assert not (out / INDEX).exists()
    assert (out / "notes.txt").exists()
