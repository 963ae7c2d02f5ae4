"""What --force and options that name a file may replace: outputs, never inputs nor folders in use."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from contextgraft.checkpoint.atomic import publish
from contextgraft.cli.main import cli
from contextgraft.errors import OutputError


@pytest.fixture(scope="module")
def models(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a donor, a fine-tune inside another one, and an adapter."""
    root = tmp_path_factory.mktemp("replaceable")
    config = toy.config()
    base = toy.weights(config)
    toy.write(root / "base", base, config)
    toy.write(root / "donor", toy.moved(base, 1), config)
    for folder in ("target", "target/inner"):
        toy.write(root / folder, toy.moved(base, 2), config)
    done = invoke(root, "extract", "--base", "base", "--donor", "donor", "--rank", "2", "--out", "adapters")
    assert done.exit_code == 0, done.output
    return root


def invoke(root: Path, *words: str) -> Result:
    """A command whose words that are paths are below `root`."""
    names = {"base", "donor", "target", "adapters", "out"}
    placed = [str(root / word) if word.partition("/")[0] in names else word for word in words]
    return CliRunner().invoke(cli, placed)


@pytest.mark.parametrize(
    "command",
    [
        "merge --adapter adapters/r2 --target target --out target",
        "merge --adapter adapters/r2 --target target --out adapters/r2",
        "merge --adapter adapters/r2 --target target/inner --out target",
        "merge --adapter adapters/r2 --target base --rope-from donor --out donor",
        "fetch target --out target",
        "fetch target/inner --out target",
    ],
)
def test_an_input_is_never_replaced(models: Path, command: str) -> None:
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    done = invoke(models, *command.split(), "--force")
    assert isinstance(done.exception, OutputError), done.output
    assert re.search("(is|contains) an input of this command", str(done.exception))
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before


def test_a_link_to_an_input_is_not_replaced(models: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(models / "target")
    words = ["merge", "--adapter", "adapters/r2", "--target", str(tmp_path / "link"), "--out", "target"]
    assert isinstance(invoke(models, *words, "--force").exception, OutputError)


@pytest.mark.parametrize("inside", [".", "deep/er"])
def test_the_working_folder_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    out = tmp_path / "out"
    (out / inside).mkdir(parents=True)
    (out / "config.json").touch()
    monkeypatch.chdir(out / inside)
    with pytest.raises(OutputError, match="the working folder"), publish(out, replace=True):
        pass
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(out / inside))
    with pytest.raises(OutputError, match="the home folder"), publish(out, replace=True):
        pass
    assert (out / "config.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        "align --base base --donor donor --target target --out {file}",
        "merge --adapter adapters/r2 --target target --out out --verify {file}",
    ],
)
def test_a_file_of_another_kind_is_not_replaced(models: Path, tmp_path: Path, words: str) -> None:
    for content in ("notes", json.dumps({"model_type": "llama"})):
        file = tmp_path / "file"
        file.write_text(content)
        done = invoke(models, *words.format(file=file).split())
        assert isinstance(done.exception, OutputError), done.output
        assert "which would replace it" in str(done.exception)
        assert file.read_text() == content
    assert not (models / "out").exists()
