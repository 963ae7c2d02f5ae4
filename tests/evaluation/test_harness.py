"""lm-eval asks exactly the prompts that were made, whole, and scores what comes back."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from contextgraft.evaluation import token_lm as token_lm_module
from contextgraft.evaluation.harness import ask, make_sittings, quiet
from contextgraft.evaluation.models import find_device, load_model, positions
from contextgraft.evaluation.questions import Question, needle_questions, skill_questions
from contextgraft.evaluation.suites import NeedleGrid, read_skill
from contextgraft.evaluation.token_lm import TokenLM
from contextgraft.evaluation.tokens import Tokens, load_tokens

CPU = find_device("cpu")
MakeModel = Callable[..., Path]


class Reader(LM):  # type: ignore[misc]  # lm-eval is untyped
    """Finds the needle by reading; sees the last `window` tokens of a prompt, all if it is None."""

    def __init__(self, tokens: Tokens, window: int | None = None) -> None:
        super().__init__()
        self.tokens = tokens
        self.window = window

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self.read([int(token) for token in request.args[0].split()]) for request in requests]

    def read(self, ids: list[int]) -> str:
        key = self.tokens.decode(ids).split()[-1]
        seen = self.tokens.decode(ids[-self.window :] if self.window else ids)
        found = re.search(rf"the secret code of {key} (\d\d \d\d) \.", seen)
        return f"{found[1]} thank you" if found else "nobody came"

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


@pytest.fixture
def questions(grid: NeedleGrid, tokens: Tokens, skill_file: Path) -> list[Question]:
    return needle_questions(grid, tokens, seed=3) + skill_questions(read_skill(skill_file), tokens, seed=3)


def token_lm(folder: Path, batch_size: int = 4) -> TokenLM:
    model = load_model(folder, CPU, "float32")
    with quiet():
        return TokenLM(
            model, load_tokens(folder).tokenizer, batch_size=batch_size, longest=2048, asked=lambda _: None
        )


def test_a_reader_finds_every_needle_and_one_that_sees_only_the_end_those_at_the_end(
    grid: NeedleGrid, tokens: Tokens
) -> None:
    needles = needle_questions(grid, tokens, seed=3)
    assert [r.score for r in ask(Reader(tokens), needles, make_sittings(needles), None)] == [1.0] * len(
        needles
    )
    crippled = ask(Reader(tokens, window=35), needles, make_sittings(needles), None)
    long = [(q.depth, r.score) for q, r in zip(needles, crippled, strict=True) if q.length == 200]
    assert {score for depth, score in long if depth == 100.0} == {1.0}
    assert {score for depth, score in long if depth != 100.0} == {0.0}


def test_a_model_of_128_positions_is_given_1024_tokens_whole(
    make_model: MakeModel, grid: NeedleGrid, tokens: Tokens
) -> None:
    lm = token_lm(make_model())
    assert lm.model.config.max_position_embeddings == 128
    prefills: list[tuple[int, ...]] = []

    def spy(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            prefills.extend(tuple(row) for row in kwargs["input_ids"].tolist())

    lm.model.register_forward_pre_hook(spy, with_kwargs=True)
    needles = needle_questions(replace(grid, lengths=(128, 1024)), tokens, seed=3)
    replies = ask(lm, needles, make_sittings(needles), positions(lm.model.config))
    assert sorted(prefills) == sorted(question.ids for question in needles)
    assert {len(ids) for ids in prefills} == {124, 1020}
    assert {reply.status for reply in replies} == {"ok"}


def test_outputs_are_the_greedy_continuation_whatever_the_batch(
    make_model: MakeModel, questions: list[Question], tokens: Tokens
) -> None:
    folder = make_model(hidden_size=64)
    lm = token_lm(folder, batch_size=7)
    replies = ask(lm, questions, make_sittings(questions), None)
    for question, reply in zip(questions, replies, strict=True):
        ids = list(question.ids)
        for _ in range(question.budget):
            with torch.no_grad():
                ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert reply.output == tokens.decode(ids[len(question.ids) :])
    assert len({reply.output for reply in replies}) > 1
    assert replies == ask(token_lm(folder, batch_size=1), questions, make_sittings(questions), None)


def test_what_a_model_has_no_positions_for_is_not_asked(questions: list[Question], tokens: Tokens) -> None:
    replies = ask(Reader(tokens), questions, make_sittings(questions), 128)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("truncated" if question.length == 200 else "ok")
        assert (reply.score is None) == (question.length == 200)
    reason = next(reply.reason for reply in replies if reply.reason)
    assert "needs 200 tokens" in reason
    assert "128 positions" in reason


def test_only_learned_positions_run_out(make_model: MakeModel) -> None:
    from transformers import LlamaConfig, OPTConfig

    assert positions(LlamaConfig(max_position_embeddings=128)) is None
    assert positions(OPTConfig(max_position_embeddings=128)) == 128


def test_what_cannot_be_run_fails_with_its_reason_and_the_rest_goes_on(
    make_model: MakeModel, questions: list[Question]
) -> None:
    lm = token_lm(make_model())

    def no_memory(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 150:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    lm.model.register_forward_pre_hook(no_memory, with_kwargs=True)
    replies = ask(lm, questions, make_sittings(questions), None)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("failed" if question.length == 200 else "ok")
    assert "tried to allocate 3 GiB" in {reply.reason for reply in replies if reply.reason}.pop()


def test_a_prompt_that_would_be_cut_raises(make_model: MakeModel, questions: list[Question]) -> None:
    lm = token_lm(make_model())
    lm._max_length = 100
    with pytest.raises(AssertionError, match="would be cut"):
        ask(lm, questions, make_sittings(questions), None)


def test_progress_counts_every_question(make_model: MakeModel, questions: list[Question]) -> None:
    counts: list[int] = []
    lm = token_lm(make_model())
    lm._asked = counts.append
    ask(lm, questions, make_sittings(questions), None)
    assert sum(counts) == len(questions)
    assert max(counts) == 4


def test_long_prompts_go_in_smaller_batches(
    make_model: MakeModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(token_lm_module.BATCH_TOKENS, "cpu", 450)
    counts: list[int] = []
    lm = token_lm(make_model())
    lm._asked = counts.append
    long = [question for question in questions if question.length == 200]
    ask(lm, long, make_sittings(long), None)
    assert counts == [2, 2, 2, 2, 1]


def test_lm_eval_says_nothing_on_the_terminal(
    make_model: MakeModel, questions: list[Question], capfd: pytest.CaptureFixture[str]
) -> None:
    lm = token_lm(make_model())
    capfd.readouterr()
    ask(lm, questions, make_sittings(questions), None)
    assert capfd.readouterr() == ("", "")
