import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands.train import command
from contextgraft.errors import ContextgraftError


def test_json_is_the_last_step(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    options = [
        "--config",
        str(recipe_folder / "recipe.yaml"),
        "--base",
        str(base),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(command, [*options, "--seed", "3", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    last = json.loads(result.stdout)
    assert last["step"] == 7
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert last == json.loads(lines[-1])
    assert "stage 2/2: length 64" in result.stderr
    assert "parameters on cpu: 7 steps, 576 tokens" in result.stderr
    assert "tokens/s" in result.stderr


def test_options_of_a_run_are_not_those_of_its_plan(base: Path, recipe_folder: Path) -> None:
    options = ["--config", str(recipe_folder / "recipe.yaml"), "--base", str(base), "--plan", "--seed", "2"]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 2
    assert "--seed cannot be combined with --plan" in result.stderr


def test_a_finished_output_is_not_overwritten(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep", encoding="utf-8")
    options = ["--config", str(recipe_folder / "recipe.yaml"), "--base", str(base), "--out", str(out)]
    with pytest.raises(ContextgraftError, match="already exists"):
        CliRunner().invoke(command, options, catch_exceptions=False)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(ContextgraftError, match="holds files of another program"):
        CliRunner().invoke(command, [*options, "--replace"], catch_exceptions=False)
    (out / "config.json").touch()
    assert CliRunner().invoke(command, [*options, "--replace"]).exit_code == 0
    assert not (out / "mine.txt").exists()
