"""`contextgraft align`: a table for people, JSON for programs, Parquet for later."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from contextgraft.cli.commands import align
from contextgraft.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def words(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name three toys."""
    path: Path = tmp_path_factory.mktemp("align")
    config = toy.config()
    base = toy.weights(config)
    for role, weights in (("base", base), ("donor", toy.moved(base, 1)), ("target", toy.moved(base, 2))):
        toy.write(path / role, weights, config)
        (path / role / "tokenizer.json").unlink()
    return [word for role in ("base", "donor", "target") for word in (f"--{role}", str(path / role))]


def test_a_table_for_people(words: list[str]) -> None:
    result = CliRunner().invoke(align.command, [*words, "--threads", "2"], catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["layer", "tensors", "donor", "target", "cosine", "chance"]
    assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    norms = next(line for line in lines if line.startswith("norms"))
    assert norms.split()[-3:-1] == ["+1.0000", "±0.1096"]
    assert norms.endswith("*")
    assert lines[-1] == "not compared: 1: model.embed_tokens.weight"


def test_json_and_parquet(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "align.parquet"
    result = CliRunner().invoke(align.command, [*words, "--json", "--out", str(out)], catch_exceptions=False)
    data = json.loads(result.stdout)
    assert set(data) == {"all", "kinds", "layers", "left_out", "models", "tensors"}
    assert pq.read_table(out).num_rows == len(data["tensors"]) == 19
    assert data["all"]["tensors"] == 19


def test_embeddings_if_asked_for(words: list[str]) -> None:
    result = CliRunner().invoke(align.command, [*words, "--embeddings", "input", "--json"])
    data = json.loads(result.stdout)
    assert data["left_out"] == []
    assert data["kinds"]["embed_tokens"]["cosine"] is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--include", "("], "not a regular expression"),
        (["--device", "cuda:9"], "cannot be used"),
        (["--threads", "0"], "at least 1; received '0'"),
    ],
)
def test_words_it_cannot_use(words: list[str], more: list[str], reason: str) -> None:
    result = CliRunner().invoke(align.command, [*words, *more])
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize("damage", ["config", "weights", "not finite"])
def test_one_bad_target_stops_no_batch(words: list[str], tmp_path: Path, damage: str) -> None:
    target = tmp_path / "target"
    shutil.copytree(words[-1], target)
    weights = target / "model.safetensors"
    if damage == "config":
        (target / "config.json").write_text("[]")
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        tensors = load_file(weights)
        tensors["model.norm.weight"][0] = math.nan
        save_file(tensors, weights)
    out = tmp_path / "align.parquet"
    options = [*words[:-1], str(target), "--out", str(out)]
    with pytest.raises(CheckpointError):
        CliRunner().invoke(align.command, options, catch_exceptions=False)
    assert not out.exists()
    result = CliRunner().invoke(align.command, [*options, "--allow-refused"], catch_exceptions=False)
    assert result.exit_code == 0
    assert str(target) in result.stdout
    assert pq.read_table(out).num_rows == 0


@pytest.mark.parametrize("pair", [("base", "donor"), ("base", "target"), ("donor", "target")])
def test_a_model_and_itself_are_told(words: list[str], pair: tuple[str, str], tmp_path: Path) -> None:
    """In one line, before anything is read if it is one folder, and afterwards if it is a copy."""
    first, second = pair
    folders = {
        word.removeprefix("--"): Path(path) for word, path in zip(words[::2], words[1::2], strict=True)
    }
    shutil.copytree(folders[first], tmp_path / "copy")
    (tmp_path / "link").symlink_to(folders[first])
    for name in ("link", "copy"):
        given = folders | {second: tmp_path / name}
        typed = [word for role, folder in given.items() for word in (f"--{role}", str(folder))]
        done = CliRunner().invoke(align.command, typed)
        if name == "copy":
            assert done.exit_code == 0
            assert f"warning: {first} and {second} have the same weights\n" in done.stderr
        else:
            assert isinstance(done.exception, InputError)
            text = f"link: is given as {first} and as {second}: there is nothing to compare; expected three"
            assert text in str(done.exception)
