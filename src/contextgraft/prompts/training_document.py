"""Training documents: token ids with a loss weight for each, of an exact length.

Answers have weight 1, the filler between them `filler_weight`. Needles, questions and the prefix have weight
0: they are random, so there is nothing to learn from predicting them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from contextgraft.errors import InputError
from contextgraft.prompts.generators import draw
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.templates import fill_slots
from contextgraft.prompts.tokens import Encode, cycle_tokens, prompt_ending

MAX_FILL = 0.85  # fraction of a document that needles and questions may fill
SPLITS = (
    0.5,
    0.75,
    1.0,
)  # questions come after this fraction of a document; 1: only after their needle


class Document(NamedTuple):
    """Ids and loss weights of the same length; a weight belongs to the prediction of the id at its index.

    `starts`, if given, are indices at which parts begin that do not see each other; the first is 0.
    """

    ids: list[int]
    weights: list[float]
    starts: tuple[int, ...] | None = None


class Insert(NamedTuple):
    """A piece of text to insert into the filler; `position`, a fraction of the document, gives the order."""

    position: float
    ids: list[int]
    weights: list[float]


class ChatTurns(NamedTuple):
    """Token ids before the user's first message, between a message and its answer, and after an answer.

    The first of those after an answer ends it; the others begin the next message.
    """

    before: list[int]
    between: list[int]
    after: list[int]


@dataclass(frozen=True)
class Filler:
    """What surrounds the inserts of a document: a prefix and the text of a haystack, as ids."""

    haystack_ids: Sequence[int]
    prefix_ids: Sequence[int] = ()
    weight: float = 0.0

    def document(self, inserts: Sequence[Insert], length: int, rng: np.random.Generator) -> Document:
        """Prefix, then the inserts ordered by position with haystack between them; exactly `length` ids."""
        filler_tokens = length - len(self.prefix_ids) - sum(len(insert.ids) for insert in inserts)
        if filler_tokens < 0:
            raise InputError(
                "a training document does not fit its length",
                expected=f"at least {length - filler_tokens} tokens",
                received=length,
                remedy="lengthen the stage or choose fewer needles",
            )
        filler = cycle_tokens(self.haystack_ids, int(rng.integers(len(self.haystack_ids))), filler_tokens)
        indices = np.sort(rng.integers(0, filler_tokens + 1, len(inserts))).tolist()
        ids, weights, start = list(self.prefix_ids), [0.0] * len(self.prefix_ids), 0
        for index, insert in zip(indices, sorted(inserts, key=lambda insert: insert.position), strict=True):
            ids += filler[start:index] + insert.ids
            weights += [self.weight] * (index - start) + insert.weights
            start = index
        return Document(ids + filler[start:], weights + [self.weight] * (filler_tokens - start))


def needle_document(
    fmt: NeedleFormat,
    encode: Encode,
    filler: Filler,
    *,
    length: int,
    needles: int,
    queries: int,
    rng: np.random.Generator,
) -> Document:
    """Many needles and many questions in one document, each question after its needle.

    No needle has a second question before every needle has one. Raises InputError if they do not fit.
    """
    keys, values = _needles(fmt, needles, rng)
    split = SPLITS[int(rng.integers(len(SPLITS)))]
    positions = rng.random(needles) * split
    inserts = []
    for key, value, position in zip(keys, values, positions, strict=True):
        ids = encode(fmt.needle_text(key, value))
        inserts.append(Insert(float(position), ids, [0.0] * len(ids)))
    for query in range(queries):
        which = query if query < needles else int(rng.integers(needles))
        earliest = max(float(positions[which]), split if split < 1 else 0.0)
        position = earliest + (1 - earliest) * (1 - float(rng.random()))  # in (earliest, 1]: after its needle
        key, value = keys[which], values[which]
        pair = fmt.question_text(key), fmt.answer_text(key, value)
        inserts.append(
            answered_question(encode, pair, fmt.ending, position=position, ending_weight=filler.weight)
        )
    return filler.document(inserts, length, rng)


def chat_needle_document(
    fmt: NeedleFormat,
    encode: Encode,
    filler: Filler,
    turns: ChatTurns,
    *,
    length: int,
    needles: int,
    queries: int,
    rng: np.random.Generator,
) -> Document:
    """A chat about a text with needles, which stands in the first message before the first question.

    Each message asks one question. An answer and the token that ends it have weight 1; what begins the answer
    (`lead`) has 0. No needle has a second question before every needle has one. Raises InputError if they do
    not fit.
    """
    keys, values = _needles(fmt, needles, rng)
    inserts = []
    for key, value in zip(keys, values, strict=True):
        ids = encode(fmt.needle_text(key, value))
        inserts.append(Insert(float(rng.random()), ids, [0.0] * len(ids)))
    order = [int(which) for which in rng.permutation(needles)]
    asked = [*order, *map(int, rng.integers(0, needles, max(0, queries - needles)))][:queries]
    chat: list[Insert] = []
    for number, which in enumerate(asked):
        question = fill_slots(fmt.question, key=keys[which])
        pair = question.lstrip() if number else question, fill_slots(fmt.lead, key=keys[which])
        chat.append(_turn(encode, turns, pair, fmt.answer_text(keys[which], values[which]), fmt.ending))
    between = turns.after[1:]
    ids = [token for turn in chat for token in (*turn.ids, *between)][: -len(between) or None]
    weights = [weight for turn in chat for weight in (*turn.weights, *([0.0] * len(between)))][: len(ids)]
    start = [*turns.before, *encode(fmt.intro)]
    text = replace(filler, prefix_ids=start).document(inserts, length - len(ids), rng)
    return Document(text.ids + ids, text.weights + weights)


def packed_chats(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    turns: ChatTurns,
    *,
    length: int,
    ending: str,
    rng: np.random.Generator,
) -> Document:
    """Chats of one random pair each in a row, cut at the length; answers with their endings have weight 1."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        prompt, answer = pairs[int(rng.integers(len(pairs)))]
        turn = _turn(encode, turns, (prompt, ""), answer + ending, "")
        ids += turns.before + turn.ids
        weights += [0.0] * len(turns.before) + turn.weights
    return Document(ids[:length], weights[:length])


def packed_conversations(
    conversations: Sequence[Sequence[str]], encode: Encode, *, length: int, rng: np.random.Generator
) -> Document:
    """Random conversations in a row, cut at the length.

    Every second part of a conversation is an answer, which has weight 1 with what ends it.
    """
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        for index, part in enumerate(conversations[int(rng.integers(len(conversations)))]):
            encoded = encode(part)
            ids += encoded
            weights += [float(index % 2)] * len(encoded)
    return Document(ids[:length], weights[:length])


def pairs_document(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    filler: Filler,
    *,
    length: int,
    count: int,
    ending: str,
    rng: np.random.Generator,
) -> Document:
    """`count` random pairs of prompt and answer at random positions of the filler."""
    inserts = [
        answered_question(
            encode,
            pairs[int(rng.integers(len(pairs)))],
            ending,
            position=float(rng.random()),
            ending_weight=filler.weight,
        )
        for _ in range(count)
    ]
    return filler.document(inserts, length, rng)


def packed_pairs(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    *,
    length: int,
    ending: str,
    rng: np.random.Generator,
    prefix_ids: Sequence[int] = (),
) -> Document:
    """Random pairs in a row, each after its prefix, cut at the length; answers and endings have weight 1."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        pair = pairs[int(rng.integers(len(pairs)))]
        insert = answered_question(encode, pair, ending, position=0.0, ending_weight=1.0)
        ids += [*prefix_ids, *insert.ids]
        weights += [0.0] * len(prefix_ids) + insert.weights
    return Document(ids[:length], weights[:length])


def _needles(fmt: NeedleFormat, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Different keys of a format, and a value for each."""
    keys = [fmt.keys[int(i)] for i in rng.choice(len(fmt.keys), count, replace=False)]
    return keys, [draw(fmt.values, fmt.value_words, rng) for _ in keys]


def _turn(encode: Encode, turns: ChatTurns, question: tuple[str, str], answer: str, ending: str) -> Insert:
    """The end of a message, (question, lead), and its answer up to the token that ends it."""
    prompt = prompt_ending(encode, *question, turns.between)
    answer_ids, ending_ids = encode(answer if question[1].strip() else answer.lstrip()), encode(ending)
    weights = [0.0] * len(prompt) + [1.0] * len(answer_ids) + [0.0] * len(ending_ids) + [1.0]
    return Insert(0.0, [*prompt, *answer_ids, *ending_ids, turns.after[0]], weights)


def answered_question(
    encode: Encode, pair: tuple[str, str], ending: str, *, position: float, ending_weight: float
) -> Insert:
    """A question with its answer, of weight 1, and what ends it."""
    question, answer, end = encode(pair[0]), encode(pair[1]), encode(ending)
    weights = [0.0] * len(question) + [1.0] * len(answer) + [ending_weight] * len(end)
    return Insert(position, question + answer + end, weights)
