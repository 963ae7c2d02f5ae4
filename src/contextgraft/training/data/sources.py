"""Kinds of training data: each returns a function that makes ids and loss weights of one document."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contextgraft.config.training.data import (
    ChatSource,
    DocumentsSource,
    NeedleSource,
    PairsSource,
    RepeatSource,
    TextSource,
)
from contextgraft.errors import InputError
from contextgraft.formats.tokenizer.chat_template import ChatRenderer
from contextgraft.prompts.generators import draw
from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.kind_document import kind_document
from contextgraft.prompts.needle_format import load_format
from contextgraft.prompts.needle_kinds import SINGLE, check_needle_kinds
from contextgraft.prompts.tokens import cycle_tokens
from contextgraft.prompts.training_document import (
    MAX_FILL,
    Document,
    Filler,
    chat_needle_document,
    needle_document,
    packed_chats,
    packed_conversations,
    packed_pairs,
    pairs_document,
)
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.conversations import render_conversations
from contextgraft.training.data.json_lines import read_json_lines
from contextgraft.training.data.packing import PackedSequences, packed_path

PAIR = '{"prompt": text, "answer": text}'


class DocumentSampler(Protocol):
    """Makes documents of an exact length."""

    def __call__(self, rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:
        """One document; `ordinal` is the number of rows of this length that the source returned before."""


def needle(source: NeedleSource, context: DataContext) -> DocumentSampler:
    """Documents of a needle format, with a random number of needles."""
    path = context.folder / source.format
    fmt = load_format(path)
    check_needle_kinds([source.question])
    wording = fmt.wording(source.question)
    if source.question != SINGLE and wording.intro:
        raise InputError(
            f"format {fmt.name}: {source.question} questions have an intro, and training documents have none",
            expected="a kind of question without intro",
            received=repr(wording.intro),
        )
    name, folder = (source.haystack, context.folder) if source.haystack else (fmt.haystack, path.parent)
    haystack_ids = context.encode(read_haystack(name, folder))
    filler = Filler(haystack_ids, context.prefix_ids, source.filler_weight)
    turns = context.chat_turns(source.chat)
    if source.question != SINGLE:

        def sample_questions(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
            return kind_document(fmt, source.question, context.encode, filler, length=length, rng=rng)

        return sample_questions
    key, value = fmt.keys[0], draw(fmt.values, fmt.value_words, np.random.default_rng(0))
    needle_size = len(context.encode(fmt.needle_text(key, value)))
    query_size = len(context.encode(fmt.question_text(key))) + len(
        context.encode(fmt.answer_text(key, value) + fmt.ending)
    )
    if turns is not None:
        query_size += len(turns.between) + len(turns.after)

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        limit = min(max(source.least + 2, length // source.spacing), source.most + 1)
        needles = min(int(rng.integers(source.least, limit)), len(fmt.keys))
        queries = int(needles * source.queries) + 1
        while queries > 1 and needles * needle_size + queries * query_size > length * MAX_FILL:
            needles, queries = (needles, queries - 1) if queries > needles else (needles - 1, queries - 1)
        make = needle_document if turns is None else partial(chat_needle_document, turns=turns)
        return make(fmt, context.encode, filler, length=length, needles=needles, queries=queries, rng=rng)

    return sample


def repeat(source: RepeatSource, context: DataContext) -> DocumentSampler:
    """Random different tokens, repeated up to the length; predictable tokens have loss weight 1."""
    tokens = np.arange(source.first, context.vocabulary)
    if len(tokens) < 2:
        raise InputError(
            "no tokens to repeat",
            expected=f"first below {context.vocabulary - 1}: the tokenizer has {context.vocabulary} tokens",
            received=source.first,
        )

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        available = length - len(context.prefix_ids)
        period = int(rng.integers(max(2, available // 6), max(3, available // 2)))
        pattern = rng.choice(tokens, min(period, len(tokens)), replace=False).tolist()
        ids = [*context.prefix_ids, *cycle_tokens(pattern, 0, available)]
        predictable = len(context.prefix_ids) + len(pattern) + 1
        return Document(ids, [float(position >= predictable) for position in range(length)])

    return sample


def text(source: TextSource, context: DataContext) -> DocumentSampler:
    """A passage of plain text, every token with loss weight 1."""
    ids = context.encode(read_haystack(source.text, context.folder))

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        available = length - len(context.prefix_ids)
        passage = cycle_tokens(ids, int(rng.integers(len(ids))), available)
        return Document([*context.prefix_ids, *passage], [0.0] * len(context.prefix_ids) + [1.0] * available)

    return sample


def pairs(source: PairsSource, context: DataContext) -> DocumentSampler:
    """Prompts with their answers, inside a haystack or packed one after the other."""
    rows = read_pairs(context.folder / source.file)
    filler = None
    if source.haystack:
        haystack_ids = context.encode(read_haystack(source.haystack, context.folder))
        filler = Filler(haystack_ids, context.prefix_ids, source.filler_weight)
    turns = context.chat_turns(source.chat)

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        if turns is not None:
            return packed_chats(rows, context.encode, turns, length=length, ending=source.ending, rng=rng)
        if filler is None:
            return packed_pairs(
                rows,
                context.encode,
                length=length,
                ending=source.ending,
                rng=rng,
                prefix_ids=context.prefix_ids,
            )
        return pairs_document(
            rows, context.encode, filler, length=length, count=source.count, ending=source.ending, rng=rng
        )

    return sample


def chat(source: ChatSource, context: DataContext) -> DocumentSampler:
    """Conversations in the tokenizer's chat template, packed one after the other."""
    assert context.tokenizer is not None
    conversations = render_conversations(context.folder / source.file, ChatRenderer(context.tokenizer))

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        return packed_conversations(conversations, context.encode, length=length, rng=rng)

    return sample


def documents(source: DocumentsSource, context: DataContext) -> DocumentSampler:
    """Packed sequences; predicting the first token of a document has loss weight 0."""
    packed: dict[int, PackedSequences] = {}

    def sample(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        if length not in packed:
            packed[length] = PackedSequences(packed_path(context.work, source, length), context.seed)
        ids, starts = packed[length].row(ordinal)
        begins = tuple(sorted({0, *starts}))
        weights = [1.0] * length
        for begin in begins:
            weights[begin] = 0.0
        return Document(ids, weights, begins if source.mask == "block_causal" else None)

    return sample


KINDS: dict[str, Callable[[Any, DataContext], DocumentSampler]] = {
    "needle": needle,
    "repeat": repeat,
    "text": text,
    "pairs": pairs,
    "chat": chat,
    "documents": documents,
}


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Rows {"prompt", "answer"} of a JSONL file; a wrong line raises InputError with its number."""
    return read_json_lines(path, "pair", PAIR, _pair)


def _pair(value: Any) -> tuple[str, str] | None:
    row = value if isinstance(value, dict) else {}
    prompt, answer = row.get("prompt"), row.get("answer")
    return (prompt, answer) if isinstance(prompt, str) and isinstance(answer, str) else None
