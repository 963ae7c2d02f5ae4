"""Ranks above the smaller side of every module: a mistake in a study, reported before anything runs."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from contextgraft.cli.main import cli
from contextgraft.errors import ConfigError
from contextgraft.planning.preflight import check_study
from contextgraft.planning.study import read_study
from contextgraft.sources.hub.client import Hub
from contextgraft.workflow.study import StudyWorkflow

STUDY = {
    "study": "ranked", "base": "base", "donor": {"source": "donor"}, "fine_tunes": "sheet.tsv",
    "evaluation": {"suites": ["perplexity"], "needle": {"lengths": [64]}, "perplexity": {"lengths": [64]}},
}  # fmt: skip
PAIR = ["extract", "--base", "base", "--donor", "donor", "--out", "out", "--include", "self_attn"]
BEYOND = "the ranks are above the smaller side of every module of the base; expected at most 64; received "
SAID = f"study.yaml: {BEYOND}"


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose modules have smaller sides of 32 and 64, and a sheet."""
    root = tmp_path_factory.mktemp("ranks")
    weights = toy.weights(toy.config())
    toy.write(root / "base", weights, toy.config())
    toy.write(root / "donor", toy.moved(weights, 1), toy.config())
    (root / "sheet.tsv").write_text("name\tsource\ntune\tdonor\n")
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` as the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(**changes: object) -> Path:
    """A study with other values."""
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    return Path("study.yaml")


def test_a_study_with_such_a_rank_is_refused_by_plan(folder: Path) -> None:
    for ranks, refused in (([8, 65, 100000], "65, 100000"), ([33, 64], "")):
        done = CliRunner().invoke(cli, ["plan", "study", str(written(ranks=ranks))])
        if refused:
            assert str(done.exception).startswith(SAID + refused)
            assert isinstance(done.exception, ConfigError)
        else:
            assert done.exit_code == 0, done.output


def test_and_before_the_first_job(folder: Path) -> None:
    path = written(ranks=[128])
    with pytest.raises(ConfigError, match=f"{SAID}128; remove what is larger"):
        StudyWorkflow.load(yaml.safe_load(path.read_text()), str(path))


@pytest.mark.parametrize(
    "words",
    [
        "init --base base --donor donor --fine-tune tune=donor --ranks 8,128",
        "plan evaluation base --lengths 64 --rank 8 --rank 128",
    ],
)
def test_other_commands_refuse_it(folder: Path, words: str) -> None:
    before = set(folder.rglob("*"))
    done = CliRunner().invoke(cli, words.split())
    assert str(done.exception).startswith(f"{BEYOND}128; remove what is larger")
    assert set(folder.rglob("*")) == before


def test_the_selected_tensors_count(folder: Path) -> None:
    path = written(ranks=[64], extraction={"include": "k_proj"})
    with pytest.raises(ConfigError, match="expected at most 32; received 64"):
        StudyWorkflow.load(yaml.safe_load(path.read_text()), str(path))


def test_a_base_that_is_not_read_with_the_study_is_checked_by_its_headers(folder: Path) -> None:
    """As one on the hub: here a folder under another name than `base`, without a shape."""
    study = read_study(written(ranks=[128], base="demo:base"))
    study.origins["base"] = study.origins["base"].model_copy(update={"source": "base"})
    with pytest.raises(ConfigError, match=f"{SAID}128"):
        check_study(study, folder / "models", Hub())


def test_extract_warns_and_gives_full_rank(folder: Path) -> None:
    done = CliRunner().invoke(cli, [*PAIR, "--rank", "100000", "--rank", "64"], catch_exceptions=False)
    assert done.exit_code == 0
    (line,) = (line for line in done.stderr.splitlines() if "warning" in line)
    assert "--rank 100000 is above the smaller side of every module, at most 64: every module gets" in line
    factors = [load_file(f"out/r{rank}/adapter_model.safetensors") for rank in (100000, 64)]
    shapes = [{name: tensor.shape for name, tensor in sorted(one.items())} for one in factors]
    assert shapes[0] == shapes[1]


def test_a_rank_above_some_modules_is_none_to_warn_of(folder: Path) -> None:
    done = CliRunner().invoke(cli, [*PAIR, "--rank", "48"], catch_exceptions=False)
    assert (done.exit_code, "warning" in done.stderr) == (0, False)
