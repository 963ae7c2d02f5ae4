"""`contextgraft compare`, and what `inspect` says of an adapter."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import compare, extract, inspect
from contextgraft.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def adapters(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of rank 2 and 8 between two toys."""
    path: Path = tmp_path_factory.mktemp("compare")
    config = toy.config()
    base = toy.weights(config)
    toy.write(path / "base", base, config)
    toy.write(path / "donor", toy.moved(base, 1), config)
    models = ["--base", str(path / "base"), "--donor", str(path / "donor"), "--out", str(path)]
    words = ["--rank", "2", "--rank", "8", "--energy", "0.5", "--serve-ranks"]
    result = CliRunner().invoke(extract.command, [*models, *words])
    assert result.exit_code == 0, result.output
    return path


def test_two_adapters_are_told_apart(adapters: Path) -> None:
    pair = [str(adapters / "r8"), str(adapters / "e0.5")]
    result = CliRunner().invoke(compare.command, [*pair, "--json"], catch_exceptions=False)
    rows = json.loads(result.stdout)
    assert len(rows["modules"]) == 19
    assert result.stderr == "compare: 19 tensors of two adapters.\n"
    assert rows["all"]["relative"] >= 0
    text = CliRunner().invoke(compare.command, [str(adapters / "r8"), str(adapters / "r8")]).stdout
    assert "0.000%" in text.splitlines()[-3]
    assert "the 5 most different of 19" in text
    assert text.splitlines()[-1] == "RoPE: the same"
    whole = CliRunner().invoke(compare.command, [*pair, "--modules"]).stdout
    assert len(whole.splitlines()) == 1 + 19 + 1 + 1


def test_an_adapter_and_itself_are_told(adapters: Path) -> None:
    (adapters / "link").symlink_to("r8")
    said = "compared with itself, so that nothing differs"
    for second, itself in (("r8", True), ("link", True), ("e0.5", False)):
        words = [str(adapters / "r8"), str(adapters / second)]
        done = CliRunner().invoke(compare.command, words, catch_exceptions=False)
        assert (done.exit_code, said in done.stderr) == (0, itself)
    (adapters / "link").unlink()


def test_ranks_are_those_a_server_takes(adapters: Path) -> None:
    assert sorted(path.name for path in adapters.iterdir()) == ["base", "donor", "e0.5", "r8"]
    text = CliRunner().invoke(inspect.command, [str(adapters / "r8")]).stdout
    assert "can serve it" in text
    assert "--max-lora-rank 8" in text
    facts = json.loads(CliRunner().invoke(inspect.command, [str(adapters / "e0.5"), "--json"]).stdout)
    assert set(facts["ranks"]) <= {1, 8}
    assert facts["vllm"]["problems"] == []


def test_what_is_no_adapter(adapters: Path) -> None:
    with pytest.raises(InputError, match="is not a PEFT adapter"):
        CliRunner().invoke(compare.command, [str(adapters / "base")] * 2, catch_exceptions=False)
    with pytest.raises(InputError, match="in it; received nothing at this path"):
        CliRunner().invoke(compare.command, [str(adapters / "r9")] * 2, catch_exceptions=False)
    result = CliRunner().invoke(inspect.command, [str(adapters / "r8"), "--base", str(adapters / "base")])
    assert result.exit_code == 2
    assert "compare" in result.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no rank given: pass --rank or --energy"),
        (["--rank", "2", "--include", "("], "not a regular expression"),
        (["--energy", "1.5"], "expected a number, more than 0, at most 1; received"),
        (["--rank", "2", "--device", "cuda:9"], "cannot be used"),
    ],
)
def test_extract_refuses_words_it_cannot_use(
    adapters: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    models = ["--base", str(adapters / "base"), "--donor", str(adapters / "donor")]
    result = CliRunner().invoke(extract.command, [*models, *words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("energy", [[0.5], "0.5", True])
def test_an_energy_that_is_no_number(adapters: Path, tmp_path: Path, energy: object) -> None:
    folder = shutil.copytree(adapters / "r8", tmp_path / "r8")
    record = json.loads((folder / "contextgraft.json").read_text())
    (folder / "contextgraft.json").write_text(json.dumps({**record, "energy": energy}))
    with pytest.raises(CheckpointError, match="malformed energy; expected a number"):
        CliRunner().invoke(inspect.command, [str(folder)], catch_exceptions=False)
