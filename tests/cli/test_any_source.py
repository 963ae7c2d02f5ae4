"""Every option that names a model or an adapter takes a source of `fetch`, or says how to fetch it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft import api
from contextgraft.cli.main import cli
from contextgraft.errors import ContextgraftError, InputError
from contextgraft.sources import cache

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, an adapter and a graft."""
    root = tmp_path_factory.mktemp("sources")
    weights = toy.weights(toy.config())
    toy.write(root / "base", weights, toy.config())
    toy.write(root / "donor", toy.moved(weights, 1), toy.config(max_position_embeddings=1024))
    toy.write(root / "tune", toy.moved(weights, 2), toy.config())
    api.extract(root / "base", root / "donor", root / "ad", ranks=[2])
    api.merge(root / "ad/r2", root / "tune", root / "graft")
    return root


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `made` as the working folder; demo:NAME is the folder NAME in it."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(cache, "local_folder", lambda source, *_: made / source.removeprefix("demo:"))
    return made


@pytest.mark.parametrize(
    "words",
    [
        "align --base demo:base --donor demo:donor --target demo:tune",
        "verify graft --target demo:tune --adapter demo:ad/r2",
        "verify ad/r2 --base demo:base --donor demo:donor",
        "merge --adapter demo:ad/r2 --target demo:tune --rope-from demo:donor --out {out}",
    ],
)
def test_a_source_is_fetched(folder: Path, words: str, tmp_path: Path) -> None:
    typed = words.format(out=tmp_path / "out").split()
    assert CliRunner().invoke(cli, typed, catch_exceptions=False).exit_code == 0


def test_the_base_of_an_alignment(folder: Path, tmp_path: Path) -> None:
    """The table is written before the evaluation, which ends at the toy's tokenizer."""
    table, out = tmp_path / "alignment.parquet", tmp_path / "out.parquet"
    words = f"evaluate tune --adapter ad/r2 --base demo:base --alignment r2={table} --out {out}"
    done = CliRunner().invoke(cli, [*words.split(), "--suite", "perplexity", "--perplexity-lengths", "8"])
    assert isinstance(done.exception, ContextgraftError)
    assert table.exists()


@pytest.mark.parametrize(
    "words",
    [
        f"train --config {ROOT}/config/demo/donor.yaml --base hf:OWNER/NAME --out x",
        "publish hf:OWNER/NAME --to me/name --dry-run",
    ],
)
def test_where_a_folder_is_needed_the_command_is_named(folder: Path, words: str) -> None:
    with pytest.raises(InputError, match="fetch it first: `contextgraft fetch hf:OWNER/NAME --out FOLDER`"):
        CliRunner().invoke(cli, words.split(), catch_exceptions=False)
