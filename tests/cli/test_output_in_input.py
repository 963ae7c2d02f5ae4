"""No command writes into a model or adapter that it reads, nor onto it; links are followed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from contextgraft import api
from contextgraft.cli.main import cli
from contextgraft.errors import OutputError
from contextgraft.sources import cache

from .command_tree import commands

ROOT = Path(__file__).resolve().parents[2]
PAIR = "--base base --donor donor"
TRAIN = f"--config {ROOT}/config/demo/donor.yaml --base base"
EVALUATE = "tune --suite perplexity --perplexity-lengths 8 --adapter ad/r2"
# words of every command with an output, {} is a path inside an input or its link
WORDS = {
    "init": (f"{PAIR} --fine-tune tune --name new --out base/{{}}",),
    "fetch": ("tune --out tune/{}", "link --out tune/{}", "tune --out link/{}"),
    "train": (
        f"{TRAIN} --out base/{{}}",
        f"{TRAIN} --out x --measures base/{{}}.parquet",
        f"{TRAIN} --out x --tensorboard base/{{}}",
    ),
    "extract": (f"{PAIR} --rank 2 --out base/{{}}", f"{PAIR} --rank 2 --out donor/{{}}"),
    "merge": (
        "--adapter ad/r2 --target tune --out tune/{}",
        "--adapter ad/r2 --target tune --out link/{}",
        "--adapter ad/r2 --target link --out tune/{}",
        "--adapter ad/r2 --target tune --out ad/r2/{}",
        "--adapter ad/r2 --target tune --target base --out tune/{}",
        "--adapter ad/r2 --target tune --rope-from donor --out donor/{}",
        "--adapter ad/r2 --target tune --out x --verify tune/{}.json",
    ),
    "align": (f"{PAIR} --target tune --out donor/{{}}.parquet",),
    "evaluate": (
        f"{EVALUATE} --out tune/{{}}.parquet",
        f"{EVALUATE} --out ad/r2/{{}}.parquet",
        f"{EVALUATE} --out x.parquet --record r2=tune/{{}}",
        f"{EVALUATE} --out x.parquet --recommendation tune/{{}}.json",
        f"{EVALUATE} --out x.parquet --base base --alignment r2=base/{{}}.parquet",
    ),
    "report": ("samples.parquet --adapter ad/r2 --out ad/r2/{}",),
}
COMMANDS: Mapping[str, click.Command] = {
    words: command
    for words, command in commands(cli)
    if any("--out" in parameter.opts for parameter in command.params)
}


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, a link to one, an adapter, and a file of samples that is not read."""
    root = tmp_path_factory.mktemp("inside")
    weights = toy.weights(toy.config())
    toy.write(root / "base", weights, toy.config())
    toy.write(root / "donor", toy.moved(weights, 1), toy.config(max_position_embeddings=1024))
    toy.write(root / "tune", toy.moved(weights, 2), toy.config())
    (root / "link").symlink_to("tune")
    api.extract(root / "base", root / "donor", root / "ad", ranks=[2])
    (root / "samples.parquet").write_text("mine")
    return root


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `made` as the working folder."""
    monkeypatch.chdir(made)
    return made


def refused(*words: str) -> str:
    """The text of the error that a command ends with; nothing is written."""
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    with pytest.raises(OutputError) as error:
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_command_with_an_output_is_tried() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize(("verb", "words"), [(verb, words) for verb in WORDS for words in WORDS[verb]])
@pytest.mark.parametrize("inside", ["new", "deep/er"])
def test_inside_an_input(folder: Path, verb: str, words: str, inside: str) -> None:
    if verb == "evaluate" and "/" in inside and "--out x" not in words:
        pytest.skip("the folder of a table must exist")
    text = refused(verb, *words.format(inside).split())
    assert "is inside an input of this command; expected a path outside of every input; received" in text
    assert text.endswith("name another output")


@pytest.mark.parametrize("out", ["base", "base/", "../{name}/base", "link-to-base"])
def test_a_training_onto_its_base(folder: Path, out: str) -> None:
    (folder / "link-to-base").symlink_to("base")
    text = refused("train", *TRAIN.split(), "--out", out.format(name=folder.name))
    assert "is an input of this command" in text
    assert "--force" not in text
    (folder / "link-to-base").unlink()


def test_before_anything_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "local_folder", pytest.fail)
    for words in (
        "extract --base base --donor hf:OWNER/NAME --rank 2 --out base/new",
        "merge --adapter hf:OWNER/NAME --target tune --out tune/new",
        "align --base base --donor hf:OWNER/NAME --target tune --out tune/new.parquet",
    ):
        assert "is inside an input of this command" in refused(*words.split())


def test_a_folder_that_is_only_searched_may_hold_the_output(folder: Path) -> None:
    words = "merge --adapter ad/r2 --target tune --out ad/graft"
    assert CliRunner().invoke(cli, words.split(), catch_exceptions=False).exit_code == 0
    shutil.rmtree(folder / "ad/graft")


@pytest.mark.parametrize("out", ["tune/graft", "tune"])
def test_the_functions_too(folder: Path, out: str) -> None:
    for call in (
        lambda: api.merge("ad/r2", "tune", out),
        lambda: api.extract("base", "tune", out, ranks=[2]),
        lambda: api.fetch("tune", out),
        lambda: api.align("base", "donor", "tune", f"{out}/x.parquet"),
    ):
        with pytest.raises(OutputError, match="an input of this command"):
            call()
    assert not (folder / "tune/graft").exists()
