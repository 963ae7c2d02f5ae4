"""What starts fast: mistakes, help and commands that read no weights end without importing torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.cli.main import VERBS

PROGRAM = """
import json, sys
from contextgraft.cli.main import main
code = 0
try:
    main()
except SystemExit as error:
    code = error.code or 0
heavy = [name for name in ("torch", "transformers", "lm_eval", "pyarrow") if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stderr)
"""
WRONG = {
    "verb": ["evalute"],
    "option": ["rope", "--thetta", "1"],
    "value": ["extract", "--base", "a", "--donor", "b", "--rank", "0", "--out", "c"],
    "missing option": ["merge", "--target", "a", "--out", "b"],
    "pattern": ["align", "--base", "a", "--donor", "b", "--target", "c", "--include", "("],
    "suite": ["evaluate", "nowhere", "--suite", "poems", "--out", "x.parquet"],
    "model of evaluate": ["evaluate", "nowhere", "--suite", "needle", "--lengths", "8", "--out", "x.parquet"],
    "model of inspect": ["inspect", "nowhere"],
    "model of plan": ["plan", "nowhere"],
    "sheet": ["inspect-sheet", "nowhere.tsv", "--base", "nowhere"],
    "source": ["fetch", "nowhere", "--out", "out"],
}


def imported(*arguments: str, folder: Path) -> tuple[int, list[str]]:
    """The exit code of a command line, and the large packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    code, heavy = json.loads(done.stderr.splitlines()[-1])
    return code, heavy


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake(mistake: str, tmp_path: Path) -> None:
    assert imported(*WRONG[mistake], folder=tmp_path) == (2, [])


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str, tmp_path: Path) -> None:
    assert imported(*verb.split(), "--help", folder=tmp_path) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["rope", "--theta", "1e4", "--context", "4096", "--to", "8192"],
        ["inspect", "model"],
        ["inspect", "model", "--json"],
        ["inspect-sheet", "sheet.tsv", "--base", "model"],
        ["plan", "llama3-8b"],
        ["plan", "llama3-70b", "--json"],
    ],
    ids=" ".join,
)
def test_a_command_that_reads_no_weights(arguments: list[str], toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    toy.write(tmp_path / "model", toy.weights(config), config, 1)
    (tmp_path / "model/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (tmp_path / "sheet.tsv").write_text("name\tsource\ntune\tmodel\n")
    assert imported(*arguments, folder=tmp_path) == (0, [])
