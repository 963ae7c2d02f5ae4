"""An option of a suite that is not evaluated is refused in one line, which names its suites."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from contextgraft.cli.evaluate.options import CONFIG_FLAGS
from contextgraft.cli.main import cli

from .conftest import NEEDLE, OUT, SKILL, Run

PERPLEXITY = ["--suite", "perplexity", "--perplexity-lengths", "20"]
DIVERGENCE = ["--suite", "divergence", "--divergence-length", "8"]
GENERAL = {"--seed", "--batch-size", "--dtype"}
# an option with a value, suites that do not read it, suites that the line names
UNREAD = [
    ("--skill polite.jsonl", NEEDLE, "skill or long_skill or repetition"),
    ("--skill polite.jsonl", PERPLEXITY, "skill or long_skill or repetition"),
    ("--skill-samples 2", NEEDLE, "skill"),
    ("--trust-tasks", NEEDLE, "skill"),
    ("--lengths 16", SKILL, "needle or ruler or long_skill or repetition or perplexity or long_perplexity"),
    ("--lengths 16", DIVERGENCE, "needle or ruler"),
    ("--depths 50", PERPLEXITY, "needle"),
    ("--samples 2", PERPLEXITY, "needle or ruler"),
    ("--distractors 1", SKILL, "needle"),
    ("--kind single", PERPLEXITY, "needle"),
    ("--count 2", PERPLEXITY, "needle"),
    ("--haystack noise", PERPLEXITY, "needle"),
    ("--values word", PERPLEXITY, "needle"),
    ("--format colours.yaml", SKILL, "needle or long_skill"),
    ("--ruler-task vt", NEEDLE, "ruler"),
    ("--ruler-lengths 64", NEEDLE, "ruler"),
    ("--ruler-samples 2", NEEDLE, "ruler"),
    ("--qa-1 data.json", NEEDLE, "ruler"),
    ("--qa-2 data.json", NEEDLE, "ruler"),
    ("--text filler.txt", NEEDLE, "long_skill or repetition or perplexity or long_perplexity or divergence"),
    ("--text filler.txt", SKILL, "long_skill or repetition"),
    ("--perplexity-lengths 20", NEEDLE, "perplexity"),
    ("--documents 2", DIVERGENCE, "perplexity"),
    ("--divergence-length 8", NEEDLE, "divergence"),
    ("--divergence-prompts 8", NEEDLE, "divergence"),
    ("--reference model", NEEDLE, "divergence"),
    ("--chat yes", PERPLEXITY, "needle or ruler or skill"),
]


@pytest.mark.parametrize(("option", "suite", "named"), UNREAD)
def test_is_refused(run: Run, model: Path, option: str, suite: list[str], named: str) -> None:
    code, out, err = run("model", *suite, *option.split(), *OUT)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    name = option.partition(" ")[0]
    assert f"{name} would have no effect; expected with --suite {named}" in err
    assert f"received --suite {suite[1]}; add the suite or leave the option out" in err
    assert not Path("samples.parquet").exists()


def test_every_option_of_a_suite_is_tried() -> None:
    assert {flag.name for flag in CONFIG_FLAGS} - GENERAL == {words.split()[0] for words, *_ in UNREAD}


def test_all_are_named_at_once_and_the_suites_of_a_file_count(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "needles.yaml").write_text("needle: {format: colours.yaml, lengths: [16], samples: 1}\n")
    code, _, err = run("model", "--config", "needles.yaml", "--documents", 2, "--skill-samples", 2, *OUT)
    assert code == 2
    assert "--skill-samples and --documents would have no effect" in err
    assert "expected with --suite skill or perplexity, received --suite needle" in err


@pytest.mark.parametrize("plan", ["--plan", "--dry-run"])
def test_a_value_that_another_suite_reads_is_taken(run: Run, model: Path, plan: str) -> None:
    """--lengths is that of perplexity without --perplexity-lengths, --format has its text."""
    words = ["--suite", "perplexity", "--lengths", "20", "--format", "colours.yaml"]
    code, out, err = run("model", *words, plan)
    assert (code, "perplexity" in out) == (0, True), err


def test_plan_evaluation() -> None:
    words = ["plan", "evaluation", "llama3-8b", "--lengths", "64", "--suite", "perplexity"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    for option in ("--depths", "--distractors"):
        done = CliRunner().invoke(cli, [*words, option, "5"])
        assert done.exit_code == 2
        assert f"{option} would have no effect; expected with --suite needle, received" in done.stderr
    done = CliRunner().invoke(cli, [*words[:-1], "long_skill", "--samples", "5"])
    assert "--samples would have no effect" in done.stderr
