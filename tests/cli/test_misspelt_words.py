"""A misspelt word, in any option of any command or any key, is answered with the word that was meant."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from contextgraft.cli.evaluate.grafts import check_known_labels, known_control
from contextgraft.cli.main import cli
from contextgraft.config.base import validate
from contextgraft.config.strict_yaml import parse_yaml
from contextgraft.config.study import StudyConfig
from contextgraft.errors import ConfigError, InputError, did_you_mean
from contextgraft.evaluation.backends.registry import BackendConfig, check_backend
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.needle_kinds import check_needle_kinds
from contextgraft.prompts.ruler.tasks import check_tasks
from contextgraft.sources.known_adapters import check_spelling
from contextgraft.sources.resolve import demo


def commands(group: click.Group) -> Iterator[click.Command]:
    """Every command, those of groups included."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


CHOICES = [
    (f"{command.name} {parameter.opts[0]}", parameter.type)
    for command in commands(cli)
    for parameter in command.params
    if isinstance(parameter.type, click.Choice)
]


def misspelt(word: str) -> str:
    """The word with two neighbouring letters exchanged, or one letter doubled in a short one."""
    middle = len(word) // 2
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return word + word[-1] if swapped == word or len(word) < 6 else swapped


@pytest.mark.parametrize(("name", "choice"), CHOICES, ids=[name for name, _ in CHOICES])
def test_every_option_with_words(name: str, choice: click.Choice[str]) -> None:
    for word in choice.choices:
        if len(word) < 4 or misspelt(word) in choice.choices:
            continue
        with pytest.raises(click.BadParameter) as error:
            choice.convert(misspelt(word), None, None)
        assert error.value.message.endswith(f"; did you mean {word}?"), name


NAMES: list[tuple[Callable[[], object], str]] = [
    (lambda: check_needle_kinds(["singel"]), "single"),
    (lambda: check_tasks(["niah_singel_1"], ["niah_single_1", "cwe"]), "niah_single_1"),
    (lambda: demo("bsae"), "base"),
    (lambda: check_spelling("llama3-70b-1048"), "llama3-70b-1048k"),
    (lambda: read_haystack("proze", Path()), "prose"),
    (lambda: read_model_shape("llama3-8"), "llama3-8b"),
    (lambda: check_backend(BackendConfig(backend="opena"), 1), "openai"),
]


@pytest.mark.parametrize(("read", "meant"), NAMES)
def test_every_name(read: Callable[[], object], meant: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {meant}\\?$"):
        read()


def test_labels_and_controls() -> None:
    with pytest.raises(click.BadParameter, match=r"; did you mean r32\?"):
        check_known_labels("--record", ["r332"], ["r4", "r32"])
    with pytest.raises(click.BadParameter, match=r"; did you mean theta_only\?"):
        known_control("theta_onyl")


STUDY = """
study: tiny
base: models/base
donor: {source: models/long}
fine_tunes: sheet.tsv
ranks: [4]
"""


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("keep_grafts: recomended", "recommended"),
        ("keep_graft: all", "keep_grafts"),
        ("extraction: {backend: mergkit}", "mergekit"),
        ("extraction: {embeding: both}", "embeddings"),
        ("cluster: {device: CUDA}", "cuda"),
        ("evaluation: {needle: {lengths: [64], sampels: 3}}", "samples"),
        ("evaluation: {needle: {lengths: [64]}, suites: [needels]}", "needle"),
    ],
)
def test_keys_and_values_of_a_study(line: str, meant: str) -> None:
    text = STUDY + (line if "evaluation" in line else f"{line}\nevaluation: {{needle: {{lengths: [64]}}}}")
    with pytest.raises(ConfigError, match=f"did you mean {meant}\\?"):
        validate(StudyConfig, parse_yaml(text), "my.yaml")


def test_a_word_that_is_like_no_other() -> None:
    assert did_you_mean("riddles", ["needle", "ruler", "skill"]) is None
