"""An error about an existing output names the options that the command has for it, and no others."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli
from contextgraft.errors import OutputError

from .command_tree import commands

ROOT = Path(__file__).resolve().parents[2]
PAIR = "--base base --donor donor"
# words of every command with an output, whose output is of other inputs, or of another program
WORDS = {
    "init": f"{PAIR} --fine-tune tune --name taken --out .",
    "fetch": "tune --out model",
    "train": f"--config {ROOT}/config/demo/donor.yaml --base base --out model",
    "extract": f"{PAIR} --rank 2 --out folder",
    "merge": "--adapter ad/r2 --target tune --out model",
    "align": f"{PAIR} --target tune --out file",
    "evaluate": "tune --suite perplexity --perplexity-lengths 8 --out file",
    "report": "samples.parquet --out model",
}
OPTIONS = ("--force", "--skip-existing")


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, an adapter, and outputs that are taken: a model, an adapter, a study, a file."""
    root = tmp_path_factory.mktemp("existing")
    weights = toy.weights(toy.config())
    for seed, name in enumerate(("base", "donor", "tune", "model"), 1):
        changed = toy.config(max_position_embeddings=1024) if name == "donor" else toy.config()
        toy.write(root / name, toy.moved(weights, seed) if name != "base" else weights, changed)
    shutil.copytree(root / "model", root / "folder/r2")
    words = ["--base", str(root / "base"), "--donor", str(root / "donor"), "--rank", "2"]
    CliRunner().invoke(cli, ["extract", *words, "--out", str(root / "ad")], catch_exceptions=False)
    for name in ("taken.yaml", "file", "samples.parquet"):
        (root / name).write_text("mine")
    return root


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `made` as the working folder."""
    monkeypatch.chdir(made)
    return made


COMMANDS: Mapping[str, click.Command] = {
    words: command
    for words, command in commands(cli)
    if any("--out" in parameter.opts for parameter in command.params)
}


def error_of(*words: str) -> str:
    """The text of the error that a command ends with."""
    with pytest.raises(OutputError) as error:
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_command_with_an_output_is_tried() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize("verb", WORDS)
def test_the_options_that_the_command_has(folder: Path, verb: str) -> None:
    before = content(folder)
    text = error_of(verb, *WORDS[verb].split())
    had = {option for option in OPTIONS if any(option in one.opts for one in COMMANDS[verb].params)}
    about_existing = ": already exists; " in text
    assert about_existing == ("--force" in had)
    assert {option for option in OPTIONS if option in text} == (had if about_existing else set())
    assert re.search(r"or (name|choose|pass) another|name a folder", text)
    assert content(folder) == before


@pytest.mark.parametrize("verb", ["fetch", "train", "extract", "merge"])
def test_not_force_where_it_does_not_replace(folder: Path, verb: str) -> None:
    out = "other/r2" if verb == "extract" else "other"
    Path(out).mkdir(parents=True)
    (Path(out) / "mine.txt").write_text("keep")
    text = error_of(verb, *re.sub("--out [a-z]+", "--out other", WORDS[verb]).split())
    assert "--skip-existing to keep it" in text
    assert "--force" not in text
    shutil.rmtree("other")


def test_not_an_option_that_was_given(folder: Path) -> None:
    words = ["extract", *PAIR.split(), "--rank", "2", "--rank", "3", "--skip-existing", "--out", "folder"]
    text = error_of(*words)
    assert "pass --force to replace it, or name another output" in text
    assert "--skip-existing" not in text


def test_an_input_is_no_output(folder: Path) -> None:
    text = error_of(*["merge", "--adapter", "ad/r2", "--target", "tune", "--out", "tune"])
    assert text.startswith("tune: is an input of this command; expected a path outside of every input; ")


def test_one_of_several_targets(folder: Path) -> None:
    shutil.copytree("model", "all/tune")
    words = "merge --adapter ad/r2 --target tune --target base --out all"
    done = CliRunner().invoke(cli, words.split())
    assert done.exit_code == 2
    assert "all/tune: already exists; pass --force to replace it or --skip-existing to keep it" in done.stderr
    shutil.rmtree("all")
