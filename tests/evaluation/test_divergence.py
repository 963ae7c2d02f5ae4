"""Divergence: nothing from itself, the textbook's sum from another, no figure where there can be none."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from contextgraft.errors import InputError
from contextgraft.evaluation.backends import logprobs
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.backends.logprobs import kl_divergence
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.suites.base import LoadedModel
from contextgraft.evaluation.suites.divergence import DivergenceMeasurement
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.evaluation.suites.text_prompts import SkillLines, Text, TextWindows

MakeModel = Callable[..., Path]


@pytest.fixture
def windows() -> TextWindows:
    return TextWindows(Text("filler", "0" * 64, "it was a dark night and nobody came " * 50), 40, 5, 7)


@pytest.fixture
def measure(windows: TextWindows) -> DivergenceMeasurement:
    return DivergenceMeasurement(windows)


def subject(path: Path, work: Path, identity: str) -> LoadedModel:
    model = load_model(path, torch.device("cpu"), "float32")
    return LoadedModel(model, load_tokenizer(path), path, 8, work, identity, "reference", "its digest")


def test_the_reference_does_not_diverge_from_itself(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    who = subject(make_model(), tmp_path, "reference")
    assert not measure.ready(tmp_path, "reference")
    heard: list[int] = []
    rows = measure.rows(who, heard.append)
    assert measure.ready(tmp_path, "reference")
    assert sum(heard) == len(measure) == 5
    assert [(row["score"], row["agreement"], row["tokens"]) for row in rows] == [(0, 1, 40)] * 5
    assert measure.rows(who) == rows


@pytest.mark.parametrize("pass_tokens", [4096, 30])
def test_the_figures_are_those_of_whole_distributions(
    measure: DivergenceMeasurement,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pass_tokens: int,
) -> None:
    first = subject(make_model("first", 0), tmp_path, "reference")
    second = subject(make_model("second", 1), tmp_path, "other")
    measure.rows(first)
    monkeypatch.setattr(logprobs, "PASS_TOKENS", pass_tokens)
    rows = measure.rows(second)
    for row, prompt in zip(rows, measure.source.prompts(first.tokenizer), strict=True):
        with torch.inference_mode():
            p, q = (
                who.model(torch.tensor([prompt.ids])).logits[0].double().softmax(-1)
                for who in (first, second)
            )
        assert row["score"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4, abs=1e-7)
        assert row["agreement"] == float((p.argmax(-1) == q.argmax(-1)).double().mean())
        assert row["score"] > 0


def test_lines_of_a_skill_of_any_length(skill_file: Path, make_model: MakeModel, tmp_path: Path) -> None:
    measure = DivergenceMeasurement(SkillLines(read_skill_file(skill_file), None, 1))
    first = subject(make_model("first", 0), tmp_path, "reference")
    second = subject(make_model("second", 1), tmp_path, "other")
    assert {row["score"] for row in measure.rows(first)} == {0.0}
    rows = measure.rows(second)
    assert [row["document"] for row in rows] == list(range(13))
    assert {row["tokens"] for row in rows} == {3, 7}
    assert measure.longest(first.tokenizer) == 7
    prompt = measure.source.prompts(first.tokenizer)[-1]
    with torch.inference_mode():
        p, q = (
            who.model(torch.tensor([prompt.ids])).logits[0].double().softmax(-1) for who in (first, second)
        )
    assert rows[-1]["score"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_divergence_of_hand_made_distributions() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.5, 0.25]])
    assert float(kl_divergence(p.log(), q.log())) == pytest.approx(0.5 * math.log(2))
    assert float(kl_divergence(q.log(), p.log())) == math.inf


def test_other_vocabularies_cannot_be_compared(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    measure.rows(subject(make_model(), tmp_path, "reference"))
    rows = measure.rows(subject(make_model("wider", vocab_size=64), tmp_path, "other"))
    assert {row["status"] for row in rows} == {"skipped"}
    assert "the reference has 39 tokens, this model 64" in rows[0]["reason"]
    assert rows[0]["score"] is None


def test_other_tokens_cannot_be_compared(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    first = subject(make_model(), tmp_path, "reference")
    measure.rows(first)
    words = sorted(first.tokenizer.hf.get_vocab(), reverse=True)
    rows = measure.rows(subject(make_model("turned", words=words), tmp_path, "other"))
    assert {row["status"] for row in rows} == {"skipped"}
    assert "tokenizer gives other tokens" in rows[0]["reason"]


def test_without_the_reference_there_is_no_figure(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    who = subject(make_model(), tmp_path, "other")
    rows = measure.rows(who)
    assert {(row["status"], row["score"]) for row in rows} == {("failed", None)}
    assert rows == measure.unscored_rows(who.tokenizer, "failed", "the reference model could not be measured")


def test_a_reference_that_fails_leaves_nothing_behind(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    who = subject(make_model(), work, "reference")

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("not enough memory")

    who.model.register_forward_pre_hook(out_of_memory)
    assert {row["status"] for row in measure.rows(who)} == {"failed"}
    assert not measure.ready(work, "reference")
    assert list(work.iterdir()) == []


def test_predictions_of_another_reference_are_not_taken(
    measure: DivergenceMeasurement, windows: TextWindows, make_model: MakeModel, tmp_path: Path
) -> None:
    measure.rows(subject(make_model(), tmp_path, "reference"))
    assert not measure.ready(tmp_path, "another")
    assert not DivergenceMeasurement(replace(windows, seed=8)).ready(tmp_path, "reference")
    assert json.dumps(measure.key()) == json.dumps(DivergenceMeasurement(windows).key())


def test_a_model_without_positions_is_not_measured(
    measure: DivergenceMeasurement, make_model: MakeModel, tmp_path: Path
) -> None:
    path = make_model()
    short = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    who = replace(subject(path, tmp_path, "reference"), model=short.eval())
    assert {row["status"] for row in measure.rows(who)} == {"truncated"}


def test_windows_in_a_chat_template_have_their_length_and_a_name_of_their_own(
    windows: TextWindows, tokens: PromptTokenizer
) -> None:
    chat = replace(windows, chat=True)
    assert (chat.name, chat.key()) == (f"{windows.name} (chat)", {**windows.key(), "chat": True})
    template = "{% for m in messages %}the {{ m['content'] }} .{% endfor %} you"
    with pytest.raises(InputError, match="no chat template"):
        chat.prompts(tokens)
    tokens.hf.chat_template = template
    try:
        for prompt, plain in zip(chat.prompts(tokens), windows.prompts(tokens), strict=True):
            words = tokens.decode(prompt.ids).split()
            assert (words[0], words[-2:]) == ("the", [".", "you"])
            assert len(prompt.ids) == len(plain.ids) == windows.length
            row = {
                "task": chat.name,
                "recipe": prompt.prompt_spec,
                "seed": chat.seed,
                "document": prompt.document,
            }
            assert chat.narrowed(row).prompts(tokens) == [prompt]
            with pytest.raises(InputError, match="not what the row was measured on"):
                windows.narrowed(row)
    finally:
        tokens.hf.chat_template = None
