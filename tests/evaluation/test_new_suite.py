"""A suite that is added from outside the package: evaluated, replayed, summarised, planned and reported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from pydantic import Field, PositiveInt
from typing_extensions import override

from contextgraft.config.base import Frozen
from contextgraft.config.evaluation import SECTIONS, EvaluationConfig
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question, json_line
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.evaluation.suites import SUITES
from contextgraft.evaluation.suites.base import (
    PlannedPrompts,
    PromptSpec,
    QuestionSet,
    SampleRow,
    Suite,
    SuiteContent,
    read_once,
)
from contextgraft.evaluation.summary import summarise
from contextgraft.planning.evaluation import study_suite_costs
from contextgraft.planning.hardware import Hardware
from contextgraft.report.build import build

from ..planning.shapes import made_up
from .test_run import Notes

MakeModel = Callable[..., Path]


class EchoSection(Frozen):
    """Repeat the last word of a prompt."""

    words: list[str] = Field(default=[])
    length: PositiveInt = 10


class Config(EvaluationConfig):
    """The configuration with a section for the new suite."""

    echo: EchoSection | None = None


@dataclass(frozen=True)
class EchoQuestions(QuestionSet):
    """One question per word."""

    words: tuple[str, ...]
    length: int
    suite: ClassVar[str] = "echo"

    @override
    def content(self) -> Any:
        return [self.words, self.length]

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        return [self._question(tokenizer, index, seed) for index in range(len(self.words))]

    @override
    def matches(self, row: SampleRow) -> bool:
        return int(row["sample_index"]) < len(self.words)

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        return prompt_spec == {"word": self.words[row["sample_index"]]}

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        return self._question(tokenizer, row["sample_index"], row["seed"])

    def _question(self, tokenizer: PromptTokenizer, index: int, seed: int) -> Question:
        word = self.words[index]
        return Question(
            suite=self.suite,
            task="echo",
            index=index,
            seed=seed,
            ids=tuple(tokenizer.encode(" ".join([word] * (self.length - 1)))),
            answer=word,
            budget=1,
            scoring="exact",
            prompt_spec=json_line({"word": word}),
            length=self.length,
        )


def section_of(config: EvaluationConfig) -> EchoSection:
    assert isinstance(config, Config)
    return config.echo or EchoSection()


def planned(config: EvaluationConfig) -> list[PlannedPrompts]:
    section = section_of(config)
    return [read_once(section.length, len(section.words))]


def built(config: EvaluationConfig) -> SuiteContent:
    section = section_of(config)
    return SuiteContent((EchoQuestions(tuple(section.words), section.length),))


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, "echo", EchoSection)
    monkeypatch.setitem(SUITES, "echo", Suite(built, planned, lambda config, row: config))


def test_a_suite_from_outside_goes_all_the_way(make_model: MakeModel, tmp_path: Path) -> None:
    config = Config(echo=EchoSection(words=["boat", "cave", "door"]), seed=5)
    assert config.selected_suites == ("echo",)
    out = tmp_path / "samples.parquet"
    models = [(name, make_model(name, seed=seed)) for seed, name in enumerate(("one", "two"))]
    notes = Notes()
    table = evaluate_models(models, build_spec(config), BackendConfig(), out, notes)
    assert table.num_rows == notes.count == 2 * 3
    assert set(table["suite"].to_pylist()) == {"echo"}
    again = Notes()
    evaluate_models(models, build_spec(config), BackendConfig(), out, again)
    assert again.found == ["one", "two"]
    for number, row in enumerate(pq.read_table(out).to_pylist()):
        spec = build_spec(narrowed_config(config, row))
        assert replay_sample(read_row(out, number), dict(models)[row["model"]], spec, BackendConfig()).agrees
    scores = summarise(table)
    assert [(score.model, score.suite, score.unit, score.n) for score in scores] == [
        ("one", "echo", "share", 3),
        ("two", "echo", "share", 3),
    ]
    (cost,) = study_suite_costs(config, made_up("toy", None, None), Hardware(1e12, 0.5, 1e9, 1e9), 2)
    assert (cost.suite, cost.length, cost.prompts, cost.tokens_alone) == ("echo", 10, 6, 60)
    page = build([out], [], "A new suite", None).texts["index.html"]
    assert "echo" in page
