"""Small files that a graft takes along are readable, or the merge is refused before it writes anything."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft import api
from contextgraft.cli.main import cli
from contextgraft.errors import CheckpointError, ContextgraftError

GROWN = '{"model": {"vocab": {"a": 0, "b'  # of a download that was cut
WORDS = ["merge", "--adapter", "ad/r2", "--target", "tune", "--out", "graft"]


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune and an adapter of its base."""
    root = tmp_path_factory.mktemp("copied")
    weights = toy.weights(toy.config())
    toy.write(root / "base", weights, toy.config())
    toy.write(root / "donor", toy.moved(weights, 1), toy.config())
    toy.write(root / "tune", toy.moved(weights, 2), toy.config())
    api.extract(root / "base", root / "donor", root / "ad", ranks=[2])
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` as the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("content", [b"", GROWN.encode(), b"no JSON", b"[1]", b"\xff\xfe{}", b"[" * 100_000])
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "special_tokens_map.json", "generation_config.json", "tokenizer_config.json"]
)
def test_a_broken_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / "tune" / name).write_bytes(content)
    before = set(folder.rglob("*"))
    done = CliRunner().invoke(cli, WORDS)
    assert isinstance(done.exception, ContextgraftError), done.output
    text = str(done.exception)
    assert text.startswith(f"tune/{name}: cannot be read, and would be copied; expected a JSON object;")
    assert text.endswith("fetch it again, or remove it")
    assert set(folder.rglob("*")) == before


def test_a_template_that_is_no_text(folder: Path) -> None:
    (folder / "tune/chat_template.jinja").write_bytes("{{ 'ü' }}".encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: cannot be read.*text in UTF-8"):
        api.merge("ad/r2", "tune", "graft")
    assert not Path("graft").exists()


def test_files_of_other_programs_are_copied_as_they_are(folder: Path) -> None:
    (folder / "tune/results.json").write_text('{"one": 1}\n{"two": 2}\n')
    (folder / "tune/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    api.merge("ad/r2", "tune", "graft")
    for name in ("results.json", "tokenizer.json"):
        assert (folder / "graft" / name).read_bytes() == (folder / "tune" / name).read_bytes()


def test_one_broken_fine_tune_stops_no_other(folder: Path) -> None:
    (folder / "tune/tokenizer.json").write_text(GROWN)
    done = CliRunner().invoke(cli, [*WORDS[:-1], "all", "--target", "donor"])
    assert done.exit_code == 2
    assert "tune/tokenizer.json: cannot be read" in done.stderr
    assert sorted(path.name for path in Path("all").iterdir()) == ["donor"]
