"""A backend gets exactly the prompts that were made, whole, and its responses are scored."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contextgraft.evaluation.backends import transformers as transformers_backend
from contextgraft.evaluation.backends.base import Backend, ChunkedBackend, GenerationRequest
from contextgraft.evaluation.backends.generation import CacheCapabilities
from contextgraft.evaluation.backends.loading import find_device, load_model, max_positions
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.backends.transformers import TransformersBackend
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.response_cache import ResponseCache
from contextgraft.evaluation.responses import ScoredResponse, respond
from contextgraft.evaluation.suites.needle_grid import NeedleGrid
from contextgraft.evaluation.suites.skill_file import read_skill_file

CPU = find_device("cpu")
MakeModel = Callable[..., Path]


Respond = Callable[..., list[ScoredResponse]]


class Reader:
    """Finds the needle by reading; sees the last `window` tokens of a prompt, all if it is None."""

    def __init__(self, tokens: PromptTokenizer, window: int | None = None) -> None:
        self.tokens = tokens
        self.window = window

    def __call__(self, requests: Sequence[GenerationRequest]) -> list[str]:
        return [self.read(request.prompt_ids) for request in requests]

    def read(self, ids: Sequence[int]) -> str:
        key = self.tokens.decode(ids).split()[-1]
        seen = self.tokens.decode(ids[-self.window :] if self.window else ids)
        found = re.search(rf"the secret code of {key} (\d\d \d\d) \.", seen)
        return f"{found[1]} thank you" if found else "nobody came"


@pytest.fixture
def questions(grid: NeedleGrid, tokens: PromptTokenizer, skill_file: Path) -> list[Question]:
    return grid.questions(tokens, 3) + read_skill_file(skill_file).questions(tokens, 3)


@pytest.fixture
def responses_of(tmp_path: Path) -> Respond:
    """Responses of a backend to questions, from an empty cache."""
    counts = itertools.count()

    def run(
        backend: Backend,
        questions: list[Question],
        positions: int | None = None,
        advance: Any = lambda _: None,
    ) -> list[ScoredResponse]:
        with ResponseCache(tmp_path / f"{next(counts)}.jsonl", advance) as cache:
            return respond(backend, cache, questions, positions)

    return run


def local_backend(folder: Path, batch_size: int = 4, prefill_chunk: int = 64) -> TransformersBackend:
    model = load_model(folder, CPU, "float32")
    tokenizer = load_tokenizer(folder).hf
    return TransformersBackend(
        model, tokenizer, batch_size=batch_size, longest=2048, prefill_chunk=prefill_chunk
    )


def test_a_reader_finds_every_needle_and_one_that_sees_only_the_end_those_at_the_end(
    grid: NeedleGrid, tokens: PromptTokenizer, responses_of: Respond
) -> None:
    needles = grid.questions(tokens, 3)
    whole = responses_of(ChunkedBackend(Reader(tokens), 5), needles)
    assert [reply.score for reply in whole] == [1.0] * len(needles)
    crippled = responses_of(ChunkedBackend(Reader(tokens, window=35), 5), needles)
    long = [(q.depth, r.score) for q, r in zip(needles, crippled, strict=True) if q.length == 200]
    assert {score for depth, score in long if depth == 100.0} == {1.0}
    assert {score for depth, score in long if depth != 100.0} == {0.0}


def test_a_model_of_128_positions_is_given_1024_tokens_whole(
    make_model: MakeModel, grid: NeedleGrid, tokens: PromptTokenizer, responses_of: Respond
) -> None:
    backend = local_backend(make_model(), prefill_chunk=2048)
    assert backend.model.config.max_position_embeddings == 128
    prefills: list[tuple[int, ...]] = []

    def spy(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            prefills.extend(tuple(row) for row in kwargs["input_ids"].tolist())

    backend.model.register_forward_pre_hook(spy, with_kwargs=True)
    needles = replace(grid, lengths=(128, 1024), depths=(0.0,)).questions(tokens, 3)
    replies = responses_of(backend, needles, max_positions(backend.model.config))
    assert sorted(prefills) == sorted(question.ids for question in needles)
    assert {len(ids) for ids in prefills} == {124, 1020}
    assert {reply.status for reply in replies} == {"ok"}


def test_outputs_are_the_greedy_continuation_whatever_the_batch(
    make_model: MakeModel, questions: list[Question], tokens: PromptTokenizer, responses_of: Respond
) -> None:
    folder = make_model(hidden_size=64)
    replies = responses_of(local_backend(folder, batch_size=7), questions)
    model = load_model(folder, CPU, "float32")
    for question, reply in zip(questions, replies, strict=True):
        ids = list(question.ids)
        for _ in range(question.budget):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert reply.output == tokens.decode(ids[len(question.ids) :])
    assert len({reply.output for reply in replies}) > 1
    assert replies == responses_of(local_backend(folder, batch_size=1, prefill_chunk=7), questions)


def test_what_a_model_has_no_positions_for_is_not_evaluated(
    questions: list[Question], tokens: PromptTokenizer, responses_of: Respond
) -> None:
    replies = responses_of(ChunkedBackend(Reader(tokens), 64), questions, 128)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("truncated" if question.length == 200 else "ok")
        assert (reply.score is None) == (question.length == 200)
    reason = next(reply.reason for reply in replies if reply.reason)
    assert "needs 200 tokens" in reason
    assert "128 positions" in reason


def test_only_learned_positions_run_out(make_model: MakeModel) -> None:
    from transformers import LlamaConfig, OPTConfig

    assert max_positions(LlamaConfig(max_position_embeddings=128)) is None
    assert max_positions(OPTConfig(max_position_embeddings=128)) == 128


def test_what_cannot_be_run_fails_with_its_reason_and_the_rest_goes_on(
    make_model: MakeModel, questions: list[Question], responses_of: Respond
) -> None:
    backend = local_backend(make_model(), prefill_chunk=2048)

    def no_memory(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 150:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    backend.model.register_forward_pre_hook(no_memory, with_kwargs=True)
    replies = responses_of(backend, questions)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("failed" if question.length == 200 else "ok")
    assert "tried to allocate 3 GiB" in {reply.reason for reply in replies if reply.reason}.pop()


def test_of_a_portion_that_fails_each_question_is_evaluated_alone(
    questions: list[Question], tokens: PromptTokenizer, responses_of: Respond
) -> None:
    class Choosy(Reader):
        def __call__(self, requests: Sequence[GenerationRequest]) -> list[str]:
            if any(len(request.prompt_ids) > 150 for request in requests):
                raise RuntimeError("too long for me")
            return super().__call__(requests)

    replies = responses_of(ChunkedBackend(Choosy(tokens), 7), questions)
    for question, reply in zip(questions, replies, strict=True):
        assert reply.status == ("failed" if question.length == 200 else "ok")
        assert reply.reason == ("RuntimeError: too long for me" if question.length == 200 else None)


def test_each_question_has_its_own_budget_and_stop_texts(
    make_model: MakeModel, questions: list[Question], responses_of: Respond
) -> None:
    backend = local_backend(make_model(hidden_size=64))
    long = [replace(question, budget=12) for question in questions]
    outputs = [reply.output.split() for reply in responses_of(backend, long)]
    assert {len(output) for output in outputs} == {12}
    budgets = [place % 3 + 1 for place in range(len(long))]
    shorter = [replace(question, budget=budget) for question, budget in zip(long, budgets, strict=True)]
    for reply, output, budget in zip(responses_of(backend, shorter), outputs, budgets, strict=True):
        assert reply.output.split() == output[:budget]
    stopping = [
        replace(question, stop=("nonesuch", output[3]))
        for question, output in zip(long, outputs, strict=True)
    ]
    for reply, output in zip(responses_of(backend, stopping), outputs, strict=True):
        assert reply.output == " ".join(output).split(output[3], maxsplit=1)[0]


def test_a_model_stops_at_its_end_tokens(
    make_model: MakeModel, questions: list[Question], tokens: PromptTokenizer, responses_of: Respond
) -> None:
    backend = local_backend(make_model(hidden_size=64))
    assert backend._end_tokens == frozenset()
    long = [replace(question, budget=12) for question in questions[:1]]
    ids = tokens.encode(responses_of(backend, long)[0].output)
    backend._end_tokens = frozenset({ids[4]})
    assert responses_of(backend, long)[0].output == tokens.decode(ids[: ids.index(ids[4]) + 1])


@pytest.mark.parametrize("stop", [(), ("thank",), ("nonesuch", "code")])
def test_a_model_driven_by_generate_responds_the_same(
    make_model: MakeModel, questions: list[Question], responses_of: Respond, stop: tuple[str, ...]
) -> None:
    folder = make_model(hidden_size=64)
    varied = [replace(question, budget=index % 7 + 1, stop=stop) for index, question in enumerate(questions)]
    ours, stock = local_backend(folder), local_backend(folder)
    stock._capabilities = CacheCapabilities(cache=False, chunks=False, crops=False)
    ours._end_tokens = stock._end_tokens = frozenset({5, 11})
    stock.model.generation_config.repetition_penalty = 1.7  # the model's settings must not count
    responses = responses_of(stock, varied)
    assert responses == responses_of(ours, varied)
    assert {len(response.output.split()) for response in responses} > {1, 2}
    assert stock.prefill is not None
    assert stock.prefill.computed == stock.prefill.prompt == sum(len(q.ids) for q in varied)


def test_progress_counts_every_question(
    make_model: MakeModel, questions: list[Question], responses_of: Respond
) -> None:
    counts: list[int] = []
    responses_of(local_backend(make_model()), questions, advance=counts.append)
    assert counts == [1] * len(questions)


def test_long_prompts_go_in_smaller_batches(
    make_model: MakeModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch, responses_of: Respond
) -> None:
    monkeypatch.setitem(transformers_backend.BATCH_TOKENS, "cpu", 450)
    backend = local_backend(make_model(), prefill_chunk=2048)
    sizes: list[int] = []
    backend.model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    responses_of(backend, [question for question in questions if question.length == 200])
    assert max(sizes) == 2 * 196


def test_nothing_is_printed(
    make_model: MakeModel, questions: list[Question], capfd: pytest.CaptureFixture[str], responses_of: Respond
) -> None:
    backend = local_backend(make_model())
    capfd.readouterr()
    responses_of(backend, questions)
    assert capfd.readouterr() == ("", "")
