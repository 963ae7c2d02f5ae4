"""lm-eval asks exactly the prompts that were made, whole, and scores what comes back."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from contextgraft.evaluation.backends import transformers as token_lm_module
from contextgraft.evaluation.backends.base import Backend, Portions, Recorder
from contextgraft.evaluation.backends.generation import Ability
from contextgraft.evaluation.backends.loading import find_device, load_model, positions
from contextgraft.evaluation.backends.tokenizer import Tokens, load_tokens
from contextgraft.evaluation.backends.transformers import TokenLM
from contextgraft.evaluation.harness import Reply, ask, make_sittings, quiet
from contextgraft.evaluation.questions import Question, needle_questions, skill_questions
from contextgraft.evaluation.response_cache import Journal
from contextgraft.evaluation.suites.spec import NeedleGrid, read_skill

CPU = find_device("cpu")
MakeModel = Callable[..., Path]


Ask = Callable[..., list[Reply]]


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


@pytest.fixture
def interview(tmp_path: Path) -> Ask:
    """Asks a backend questions; nothing is known before."""
    counts = itertools.count()

    def run(
        backend: Backend, questions: list[Question], room: int | None = None, asked: Any = lambda _: None
    ) -> list[Reply]:
        with Journal(tmp_path / f"{next(counts)}.jsonl", asked) as journal:
            return ask(Recorder(backend, journal, room), questions, make_sittings(questions))

    return run


def token_lm(folder: Path, batch_size: int = 4, prefill_chunk: int = 64) -> TokenLM:
    model = load_model(folder, CPU, "float32")
    tokenizer = load_tokens(folder).tokenizer
    with quiet():
        return TokenLM(model, tokenizer, batch_size=batch_size, longest=2048, prefill_chunk=prefill_chunk)


def test_a_reader_finds_every_needle_and_one_that_sees_only_the_end_those_at_the_end(
    grid: NeedleGrid, tokens: Tokens, interview: Ask
) -> None:
    needles = needle_questions(grid, tokens, seed=3)
    whole = interview(Portions(Reader(tokens), 5), needles)
    assert [reply.score for reply in whole] == [1.0] * len(needles)
    crippled = interview(Portions(Reader(tokens, window=35), 5), needles)
    long = [(q.depth, r.score) for q, r in zip(needles, crippled, strict=True) if q.length == 200]
    assert {score for depth, score in long if depth == 100.0} == {1.0}
    assert {score for depth, score in long if depth != 100.0} == {0.0}


def test_a_model_of_128_positions_is_given_1024_tokens_whole(
    make_model: MakeModel, grid: NeedleGrid, tokens: Tokens, interview: Ask
) -> None:
    lm = token_lm(make_model(), prefill_chunk=2048)
    assert lm.model.config.max_position_embeddings == 128
    prefills: list[tuple[int, ...]] = []

    def spy(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            prefills.extend(tuple(row) for row in kwargs["input_ids"].tolist())

    lm.model.register_forward_pre_hook(spy, with_kwargs=True)
    needles = needle_questions(replace(grid, lengths=(128, 1024), depths=(0.0,)), tokens, seed=3)
    replies = interview(lm, needles, positions(lm.model.config))
    assert sorted(prefills) == sorted(question.ids for question in needles)
    assert {len(ids) for ids in prefills} == {124, 1020}
    assert {reply.status for reply in replies} == {"ok"}


def test_outputs_are_the_greedy_continuation_whatever_the_batch(
    make_model: MakeModel, questions: list[Question], tokens: Tokens, interview: Ask
) -> None:
    folder = make_model(hidden_size=64)
    replies = interview(token_lm(folder, batch_size=7), questions)
    model = load_model(folder, CPU, "float32")
    for question, reply in zip(questions, replies, strict=True):
        ids = list(question.ids)
        for _ in range(question.budget):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert reply.output == tokens.decode(ids[len(question.ids) :])
    assert len({reply.output for reply in replies}) > 1
    assert replies == interview(token_lm(folder, batch_size=1, prefill_chunk=7), questions)


def test_what_a_model_has_no_positions_for_is_not_asked(
    questions: list[Question], tokens: Tokens, interview: Ask
) -> None:
    replies = interview(Portions(Reader(tokens), 64), questions, 128)
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
    make_model: MakeModel, questions: list[Question], interview: Ask
) -> None:
    lm = token_lm(make_model(), prefill_chunk=2048)

    def no_memory(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 150:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    lm.model.register_forward_pre_hook(no_memory, with_kwargs=True)
    replies = interview(lm, questions)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("failed" if question.length == 200 else "ok")
    assert "tried to allocate 3 GiB" in {reply.reason for reply in replies if reply.reason}.pop()


def test_of_a_portion_that_fails_each_question_is_asked_alone(
    questions: list[Question], tokens: Tokens, interview: Ask
) -> None:
    class Choosy(Reader):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            if any(len(request.args[0].split()) > 150 for request in requests):
                raise RuntimeError("too long for me")
            return super().generate_until(requests)

    replies = interview(Portions(Choosy(tokens), 7), questions)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("failed" if question.length == 200 else "ok")
        assert reply.reason == ("RuntimeError: too long for me" if question.length == 200 else None)


def test_each_question_has_its_own_budget_and_stop_texts(
    make_model: MakeModel, questions: list[Question], interview: Ask
) -> None:
    lm = token_lm(make_model(hidden_size=64))
    long = [replace(question, budget=12) for question in questions]
    outputs = [reply.output.split() for reply in interview(lm, long)]
    assert {len(output) for output in outputs} == {12}
    budgets = [place % 3 + 1 for place in range(len(long))]
    shorter = [replace(question, budget=budget) for question, budget in zip(long, budgets, strict=True)]
    for reply, output, budget in zip(interview(lm, shorter), outputs, budgets, strict=True):
        assert reply.output.split() == output[:budget]
    stopping = [
        replace(question, stop=("nonesuch", output[3]))
        for question, output in zip(long, outputs, strict=True)
    ]
    for reply, output in zip(interview(lm, stopping), outputs, strict=True):
        assert reply.output == " ".join(output).split(output[3], maxsplit=1)[0]


def test_a_model_stops_at_its_end_tokens(
    make_model: MakeModel, questions: list[Question], tokens: Tokens, interview: Ask
) -> None:
    lm = token_lm(make_model(hidden_size=64))
    assert lm._ends == frozenset()
    long = [replace(question, budget=12) for question in questions[:1]]
    ids = tokens.encode(interview(lm, long)[0].output)
    lm._ends = frozenset({ids[4]})
    assert interview(lm, long)[0].output == tokens.decode(ids[: ids.index(ids[4]) + 1])


def test_a_model_driven_by_lm_eval_gives_the_same_and_never_a_cut_prompt(
    make_model: MakeModel, questions: list[Question], interview: Ask
) -> None:
    folder = make_model(hidden_size=64)
    stock = token_lm(folder)
    stock._can = Ability(cache=False, chunks=False, crops=False)
    assert interview(stock, questions) == interview(token_lm(folder), questions)
    stock._max_length = 100
    with pytest.raises(AssertionError, match="would be cut"):
        interview(stock, questions)


def test_progress_counts_every_question(
    make_model: MakeModel, questions: list[Question], interview: Ask
) -> None:
    counts: list[int] = []
    interview(token_lm(make_model()), questions, asked=counts.append)
    assert counts == [1] * len(questions)


def test_long_prompts_go_in_smaller_batches(
    make_model: MakeModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch, interview: Ask
) -> None:
    monkeypatch.setitem(token_lm_module.BATCH_TOKENS, "cpu", 450)
    lm = token_lm(make_model(), prefill_chunk=2048)
    sizes: list[int] = []
    lm.model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    interview(lm, [question for question in questions if question.length == 200])
    assert max(sizes) == 2 * 196


def test_lm_eval_says_nothing_on_the_terminal(
    make_model: MakeModel, questions: list[Question], capfd: pytest.CaptureFixture[str], interview: Ask
) -> None:
    lm = token_lm(make_model())
    capfd.readouterr()
    interview(lm, questions)
    assert capfd.readouterr() == ("", "")
