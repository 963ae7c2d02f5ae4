"""A skill behind a long text: exact lengths, the short prompt at the end, readers, replay and report."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tests.evaluation.conftest import FILLER, MakeModel
from tests.evaluation.test_run import Notes

from contextgraft.config.evaluation import EvaluationConfig, LongSkillSection, SkillSection
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.base import ChunkedBackend, GenerationRequest
from contextgraft.evaluation.backends.registry import BACKENDS, BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.evaluation.suites import SUITES
from contextgraft.evaluation.suites.long_skill import LongSkill
from contextgraft.report.build import build

LENGTHS = [40, 90]


@pytest.fixture
def config(skill_file: Path, tmp_path: Path) -> EvaluationConfig:
    text = tmp_path / "text.txt"
    text.write_text(f"{' '.join(FILLER)} . " * 30)
    return EvaluationConfig(
        skill=SkillSection(skills=[str(skill_file)], samples=6),
        long_skill=LongSkillSection(lengths=LENGTHS, samples=4),
        text=str(text),
        seed=3,
    )


def test_the_short_prompt_is_the_end_of_the_long_one(
    config: EvaluationConfig, tokens: PromptTokenizer
) -> None:
    questions = build_spec(config).questions(tokens)
    short = {question.index: question for question in questions if question.suite == "skill"}
    long = [question for question in questions if question.suite == "long_skill"]
    assert [question.length for question in long] == [length for length in LENGTHS for _ in range(4)]
    for question in long:
        own = short[question.index]
        assert question.ids[-len(own.ids) :] == own.ids
        assert (question.answer, question.budget, question.scoring) == (own.answer, own.budget, "exact")
        assert len(question.ids) + question.budget == question.length
    assert len({question.ids for question in long}) == len(long)
    (planned, _) = SUITES["long_skill"].planned(config)
    assert (planned.length, planned.documents) == (40, 4)


def test_prompts_take_turns_behind_the_texts_that_they_share(
    config: EvaluationConfig, tokens: PromptTokenizer
) -> None:
    shared = config.with_section("long_skill", texts=2)
    short, long = (
        [question for question in build_spec(shared).questions(tokens) if question.suite == suite]
        for suite in ("skill", "long_skill")
    )
    drawn = {question.index: question.ids for question in short}
    for length in LENGTHS:
        at_length = [question for question in long if question.length == length]
        assert [question.document for question in at_length] == [0, 1, 0, 1]
        bodies = [question.ids[: -len(drawn[question.index])] for question in at_length]
        for one, other in ((0, 2), (1, 3)):
            common = min(len(bodies[one]), len(bodies[other]))
            assert bodies[one][:common] == bodies[other][:common]
        places = [json.loads(question.prompt_spec)["offset"] for question in at_length]
        assert places[:2] == places[2:]
        assert places[0] != places[1]
    (planned, _) = SUITES["long_skill"].planned(shared)
    assert (planned.documents, len(planned.alone), planned.shared[0]) == (2, 2, (0, LENGTHS[0]))


def test_a_prompt_that_does_not_fit_is_one_line(config: EvaluationConfig, tokens: PromptTokenizer) -> None:
    narrow = config.with_section("long_skill", lengths=[5])
    with pytest.raises(InputError, match="does not fit the length"):
        build_spec(narrow).questions(tokens)


SEEN = [(slice(None), 1.0), (slice(-8, None), 1.0), (slice(0, 20), 0.0)]


@pytest.mark.parametrize(("seen", "score"), SEEN)
def test_readers_get_the_scores_that_they_must(
    config: EvaluationConfig,
    make_model: MakeModel,
    seen: slice,
    score: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = make_model(), config_folder(config) / "rows.parquet"

    def respond(tokens: PromptTokenizer, requests: Sequence[GenerationRequest]) -> list[str]:
        texts = [tokens.decode(request.prompt_ids[seen]) for request in requests]
        return [
            "boat" if text.endswith("? of") else "thank you" if "code of" in text else "" for text in texts
        ]

    monkeypatch.setitem(
        BACKENDS, "hf",
        lambda model, *_: ChunkedBackend(lambda requests: respond(model.tokenizer, requests), 8),
    )  # fmt: skip
    rows = evaluate(config, folder, out).to_pylist()
    long = [row for row in rows if row["suite"] == "long_skill"]
    assert {row["score"] for row in long} == {score}
    assert {row["task"] for row in rows} == {"polite"}


def config_folder(config: EvaluationConfig) -> Path:
    return Path(str(config.text)).parent


def evaluate(config: EvaluationConfig, folder: Path, out: Path) -> pa.Table:
    return evaluate_models([("tiny", folder)], build_spec(config), BackendConfig(), out, Notes())


@pytest.mark.parametrize("texts", [None, 3])
def test_rows_are_replayed_and_reported(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path, texts: int | None
) -> None:
    config = config.with_section("long_skill", texts=texts)
    folder, out = make_model(), tmp_path / "rows.parquet"
    rows = evaluate(config, folder, out).to_pylist()
    assert [row["split"] for row in rows if row["suite"] == "long_skill"] == [None] * 8
    for number, row in enumerate(rows):
        if row["suite"] == "long_skill":
            assert json.loads(row["recipe"])["length"] == row["length"]
            spec = build_spec(narrowed_config(config, row))
            assert replay_sample(read_row(out, number), folder, spec, BackendConfig()).agrees
    long = build_spec(config).question_sets[1]
    assert isinstance(long, LongSkill)
    other = replace(long, text=replace(long.text, digest="x"))
    assert not other.same_content(rows[-1], json.loads(rows[-1]["recipe"]))
    assert "long_skill" in build([out], [], "t", None).texts["index.html"]


def test_tasks_of_lm_eval_have_no_long_form(config: EvaluationConfig) -> None:
    tasks = config.model_copy(update={"skill": SkillSection(skills=["gsm8k"])})
    assert SUITES["long_skill"].build(tasks).question_sets == ()
    without = config.model_copy(update={"skill": None})
    assert without.selected_suites == ()
    with pytest.raises(InputError, match="needs a skill file"):
        SUITES["long_skill"].build(without)
