"""Wrong inputs of a new user: one line with the remedy, told before anything is computed or written."""

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli
from contextgraft.errors import ContextgraftError, MissingExtra
from contextgraft.evaluation.backends import registry

PAIR = "--base base --donor donor"
MERGE = "merge --adapter ad/r2 --target tune"
PERPLEXITY = "evaluate tune --suite perplexity --perplexity-lengths 8"
EMPTY = "expected a path; received ''"


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, an adapter and a file."""
    root = tmp_path_factory.mktemp("wrong")
    base = toy.weights(toy.config())
    toy.write(root / "base", base, toy.config())
    toy.write(root / "donor", toy.moved(base, 1), toy.config(max_position_embeddings=1024))
    toy.write(root / "tune", toy.moved(base, 2), toy.config())
    words = ["--base", str(root / "base"), "--donor", str(root / "donor"), "--rank", "2"]
    CliRunner().invoke(cli, ["extract", *words, "--out", str(root / "ad")], catch_exceptions=False)
    shutil.copytree(root / "ad", root / "again")
    (root / "file").write_text("mine")
    return root


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `made` as the working folder."""
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"extract {PAIR} --rank 2 --out file", "file: already exists; pass --skip-existing"),
        (f"{MERGE} --out tune", "tune: is an input of this command"),
        (f"{MERGE} --force --out .", "contains an input of this command"),
        (f"{MERGE} --out ''", EMPTY),
        ("merge --adapter '' --target tune --out x", EMPTY),
        (f"{PERPLEXITY} --out ''", EMPTY),
        ("fetch base --out ''", EMPTY),
        ("fetch '' --out x", "a source is empty; expected a folder"),
        ("merge --adapter ad/r2 --target https://huggingface.co/A/B --out x", "did you mean hf:A/B?"),
        ("inspect huggingface.co/A/B/tree/v2", "did you mean hf:A/B@v2?"),
        ("fetch https://hf.co/datasets/A/B/ --out x", "did you mean hf:datasets/A/B?"),
        ("fetch https://example.org/A/B --out x", "unknown kind of source 'https:'; expected a folder"),
        (f"init {PAIR} --fine-tune ad/r2 --name a", "ad/r2: holds an adapter, not a complete model"),
        (f"init {PAIR} --fine-tune =tune --name a", "expected [NAME=]SOURCE; received =tune"),
        (f"{PERPLEXITY} --out x.csv", "expected a name that ends in .parquet; received 'x.csv'"),
        (f"align {PAIR} --target tune --out x.csv", "expected a name that ends in .parquet"),
        (f"{PERPLEXITY} --out x.parquet --adapter ad", "ad: is not a PEFT adapter"),
        (
            f"{PERPLEXITY} --out x.parquet --backend openai --url ftp://x",
            "ftp://x: the server cannot be used; expected http://",
        ),
        (
            f"{PERPLEXITY} --out x.parquet --adapter ad/r2 --adapter again/r2",
            "again/r2: two adapters are labelled 'r2'; received ad/r2 too; give them different labels",
        ),
        (f"{MERGE} --recommended file --out x", "file: is not a recommendation; expected the keys rank"),
        ("publish ad --to me/x --dry-run", "choose one of its folders: r2"),
        ("publish ad/r2 --to hf:me/x --dry-run", "expected OWNER/NAME; did you mean me/x?"),
    ],
)
def test_one_line_and_nothing_written(folder: Path, words: str, said: str) -> None:
    before = set(folder.rglob("*"))
    done = CliRunner().invoke(cli, shlex.split(words))
    text = str(done.exception) if isinstance(done.exception, ContextgraftError) else done.stderr
    assert isinstance(done.exception, ContextgraftError) or done.exit_code == 2, done.exception
    assert said in text
    assert set(folder.rglob("*")) == before


def test_each_mistake_of_a_needle_format_has_a_line(folder: Path) -> None:
    (folder / "format.yaml").write_text("study: a\nranks: [1]\n")
    words = f"init {PAIR} --fine-tune tune --name a --format format.yaml"
    done = CliRunner().invoke(cli, shlex.split(words))
    lines = str(done.exception).splitlines()
    assert lines[0].endswith("mistakes")
    assert [line for line in lines if "unknown key 'ranks'" in line]
    assert len(lines) == int(lines[0].split()[0]) + 1
    (folder / "format.yaml").unlink()


def test_lengths_beyond_the_donors_context_are_told(folder: Path) -> None:
    words = f"init {PAIR} --fine-tune tune --name beyond --lengths 128,1000000"
    done = CliRunner().invoke(cli, shlex.split(words), catch_exceptions=False)
    assert "warning: prompts of 1,000,000 tokens are beyond the donor's context of 1,024" in done.stderr
    again = CliRunner().invoke(cli, shlex.split(words.replace("1000000", "1024") + " --force"))
    assert (again.exit_code, "warning" in again.stderr) == (0, False)
    for path in folder.glob("beyond*"):
        path.unlink()


def test_a_backend_that_is_not_installed_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="needs vLLM, which is not installed; pip install vllm"):
        registry.check_backend(registry.BackendConfig(backend="vllm"), 1)
