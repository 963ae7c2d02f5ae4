"""What a study asks is what `contextgraft evaluate` reads: the words go through its own parser."""

from typing import Any

import click
import pytest

from contextgraft.cli.commands.evaluate import command
from contextgraft.config import cli_arguments
from contextgraft.config.study import StudyConfig
from contextgraft.config.target_sheet import TargetRow

EVERYTHING: dict[str, Any] = {
    "study": "s",
    "base": "base",
    "donor": {"source": "donor"},
    "fine_tunes": "sheet.tsv",
    "ranks": [1],
    "evaluation": {
        "batch_size": 3,
        "needle": {
            "format": "needle.yaml",
            "kinds": ["single", "chain"],
            "count": 3,
            "haystacks": ["prose", "my text.txt"],
            "lengths": [128, 1024],
            "depths": [0, 12.5, 100],
            "samples": 7,
            "distractors": 2,
            "seed": 5,
        },
        "ruler": {"tasks": ["vt", "cwe"], "lengths": [512], "samples": 4, "qa_1": "squad.json"},
        "perplexity": {"lengths": [64, 256], "documents": 6},
        "divergence": {"length": 32, "prompts": 9},
        "skill": {"samples": 11},
    },
    "cluster": {"device": "cuda", "gpus_per_node": 8},
}
TARGET = TargetRow.model_validate({"name": "tune", "source": "tune", "skill": "own.jsonl, hellaswag"})


def parsed(words: list[str]) -> dict[str, Any]:
    """The words as the command sees them."""
    context = click.Context(command)
    command.parse_args(context, ["tune=folder", "--format", "needle.yaml", *words])
    return context.params


def test_everything_that_is_configured_is_asked() -> None:
    given = parsed(cli_arguments.of_target(StudyConfig.model_validate(EVERYTHING), TARGET))
    assert given["suites"] == ("needle", "ruler", "perplexity", "divergence", "skill")
    assert (given["lengths"], given["depths"]) == ((128, 1024), (0, 12.5, 100))
    assert (given["samples"], given["distractors"], given["seed"]) == (7, 2, 5)
    assert (given["kinds"], given["count"]) == (("single", "chain"), 3)
    assert given["haystacks"] == ("prose", "my text.txt")
    assert (given["ruler_tasks"], given["ruler_lengths"], given["ruler_samples"]) == (
        ("vt", "cwe"),
        (512,),
        4,
    )
    assert (str(given["qa_1"]), given["qa_2"]) == ("squad.json", None)
    assert (given["perplexity_lengths"], given["documents"]) == ((64, 256), 6)
    assert (given["divergence_length"], given["divergence_prompts"], given["reference"]) == (32, 9, "tune")
    assert (given["skills"], given["skill_samples"]) == (("own.jsonl", "hellaswag"), 11)
    assert (given["batch_size"], given["device"], given["dtype"]) == (3, "cuda", "auto")


def test_what_is_not_configured_is_not_asked() -> None:
    bare = {key: value for key, value in EVERYTHING.items() if key != "cluster"}
    needle = {**EVERYTHING["evaluation"]["needle"], "kinds": ["single"], "count": None, "haystacks": []}
    study = StudyConfig.model_validate({**bare, "evaluation": {"needle": needle, "skill": {"samples": 1}}})
    target = TargetRow.model_validate({"name": "tune", "source": "tune"})
    given = parsed(cli_arguments.of_target(study, target))
    assert given["suites"] == ("needle",)
    assert (given["haystacks"], given["device"]) == ((), "cpu")


@pytest.mark.parametrize("key", ["ruler", "perplexity", "divergence"])
def test_base_and_donor_are_asked_all_but_the_fine_tunes_own(key: str) -> None:
    suites = parsed(cli_arguments.of_all(StudyConfig.model_validate(EVERYTHING)))["suites"]
    assert (key in suites) == (key != "divergence")
    assert "skill" not in suites
