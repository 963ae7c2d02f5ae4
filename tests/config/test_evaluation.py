"""What a study evaluates is one configuration: as a file it is what `contextgraft evaluate` reads."""

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from contextgraft.cli.commands.evaluate import command
from contextgraft.cli.evaluate.config import evaluation_config
from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.config.resolved_study import ResolvedStudy, origins
from contextgraft.config.study import StudyConfig
from contextgraft.config.target_sheet import TargetRow
from contextgraft.errors import ConfigError, InputError

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
}
OWN = {"name": "own", "source": "own", "needle": "own.yaml", "skill": "own.jsonl, hellaswag"}
FLAGS = """
--suite needle --suite ruler --suite perplexity --suite divergence --suite skill --format own.yaml
--lengths 128,1024 --depths 0,12.5,100 --samples 7 --distractors 2 --kind single --kind chain --count 3
--haystack prose --haystack 'my text.txt' --seed 5 --ruler-task vt --ruler-task cwe --ruler-lengths 512
--ruler-samples 4 --qa-1 squad.json --perplexity-lengths 64,256 --documents 6 --divergence-length 32
--divergence-prompts 9 --reference own --skill own.jsonl --skill hellaswag --skill-samples 11 --batch-size 3
"""


def study(config: dict[str, Any] = EVERYTHING) -> ResolvedStudy:
    rows = [TargetRow.model_validate(row) for row in (OWN, {"name": "plain", "source": "plain"})]
    settings = StudyConfig.model_validate(config)
    return ResolvedStudy(settings, {row.name: row for row in rows}, origins(settings, tuple(rows)))


def typed(*words: object) -> EvaluationConfig:
    """The configuration of a command line."""
    context = click.Context(command)
    command.parse_args(context, ["own=folder", *map(str, words)])
    return evaluation_config(context.params)


def without_suites(config: EvaluationConfig) -> EvaluationConfig:
    return config.model_copy(update={"suites": None})


@pytest.mark.parametrize("target", [None, "own", "plain"])
def test_the_file_of_a_configuration_is_read_as_the_same(target: str | None, tmp_path: Path) -> None:
    resolved = study().evaluation(target)
    path = tmp_path / "evaluation.yaml"
    path.write_text(resolved.to_yaml())
    read = typed("--config", path)
    assert read.selected_suites == resolved.selected_suites
    assert without_suites(read) == resolved
    assert read.common_seed == 5


def test_flags_say_the_same_as_a_study() -> None:
    flags = typed(*shlex.split(FLAGS))
    resolved = study().evaluation("own")
    assert flags.selected_suites == resolved.selected_suites
    needles = resolved.needles.model_copy(update={"seed": None})
    same = resolved.model_copy(update={"needle": needles, "seed": 5})
    assert without_suites(flags) == same


def test_a_fine_tune_has_its_own_format_and_skills_and_is_the_reference() -> None:
    own, plain = study().evaluation("own"), study().evaluation("plain")
    assert (own.needles.format, plain.needles.format) == ("own.yaml", "needle.yaml")
    assert own.skill is not None
    assert (own.skill.skills, own.skill.samples) == (["own.jsonl", "hellaswag"], 11)
    assert plain.skill is None
    assert own.divergence is not None
    assert own.divergence.reference == "own"
    assert own.selected_suites == ("needle", "ruler", "skill", "perplexity", "divergence")
    with pytest.raises(InputError, match="no such fine-tune; expected own, plain; received other"):
        study().evaluation("other")


def test_base_and_donor_are_evaluated_on_all_but_the_fine_tunes_own() -> None:
    assert study().evaluation().selected_suites == ("needle", "ruler", "perplexity")


def test_what_is_not_configured_is_not_evaluated() -> None:
    needle = EVERYTHING["evaluation"]["needle"]
    bare = study({**EVERYTHING, "evaluation": {"needle": needle, "skill": {"samples": 1}}})
    assert bare.evaluation("plain").selected_suites == ("needle",)
    assert bare.evaluation("own").selected_suites == ("needle", "skill")


def test_flags_change_single_values_and_select_suites(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.yaml"
    path.write_text(yaml.safe_dump({"evaluation": EVERYTHING["evaluation"]}))
    config = typed("--config", path, "--lengths", 64, "--skill", "polite.jsonl", "--seed", 9)
    assert config.selected_suites == ("needle", "ruler", "skill", "perplexity", "divergence")
    assert (config.needles.lengths, config.needles.samples, config.common_seed) == ([64], 7, 9)
    assert config.skill is not None
    assert config.skill.skills == ["polite.jsonl"]
    assert typed("--config", path).selected_suites == ("needle", "ruler", "perplexity", "divergence")
    assert typed("--config", path, "--suite", "ruler").selected_suites == ("ruler",)
    path.write_text(yaml.safe_dump({"needle": {"lengths": [64]}}))
    only = typed("--config", path, "--perplexity-lengths", 32, "--documents", 2)
    assert only.selected_suites == ("needle",)
    assert typed("--config", path, "--suite", "perplexity").selected_suites == ("perplexity",)


def test_mistakes_in_the_file_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.yaml"
    for content, complaint in (
        ({"needels": {}}, "unknown key 'needels'"),
        ({"needle": {"lengths": [0]}}, r"needle\.lengths\.0"),
        ({"needle": {"lengths": [64, 64]}}, "lengths repeats a value"),
        ({**EVERYTHING, "evaluation": {"needle": {"samples": 1}}}, r"needle\.lengths"),
        ([1], "not a configuration"),
    ):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError, match=complaint) as error:
            typed("--config", path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--fine-tune needs a study"):
        typed("--fine-tune", "own")
