"""Training documents: token ids with a loss weight for each, of an exact length.

Answers weigh 1. The filler between them weighs `filler_weight`. Needles, questions and the prefix weigh 0:
they are random, so nothing can be learnt from guessing them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contextgraft.errors import InputError
from contextgraft.prompts.generators import draw
from contextgraft.prompts.needle_format import Encode, NeedleFormat, circle

SPLITS = (0.5, 0.75, 1.0)  # questions begin after this part of the document; 1: anywhere behind their needle


class Document(NamedTuple):
    """Ids and loss weights of the same length; the weight belongs to predicting the id at its own place."""

    ids: list[int]
    weights: list[float]


class Insert(NamedTuple):
    """A piece of text to place in the filler; `place` orders the pieces, fractions of the document."""

    place: float
    ids: list[int]
    weights: list[float]


def needle_document(
    fmt: NeedleFormat,
    encode: Encode,
    *,
    length: int,
    needles: int,
    queries: int,
    rng: np.random.Generator,
    haystack_ids: Sequence[int],
    prefix_ids: Sequence[int] = (),
    filler_weight: float = 0.0,
) -> Document:
    """Many needles and many questions in one document, each question behind its needle.

    Every needle is asked for once before any is asked for again. Raises InputError if the pieces do not fit.
    """
    keys = [fmt.keys[int(i)] for i in rng.choice(len(fmt.keys), needles, replace=False)]
    values = [draw(fmt.values, fmt.value_words, rng) for _ in keys]
    split = SPLITS[int(rng.integers(len(SPLITS)))]
    places = rng.random(needles) * split
    inserts = []
    for key, value, place in zip(keys, values, places, strict=True):
        ids = encode(fmt.needle_text(key, value))
        inserts.append(Insert(float(place), ids, [0.0] * len(ids)))
    for asked in range(queries):
        which = asked if asked < needles else int(rng.integers(needles))
        earliest = max(float(places[which]), split if split < 1 else 0.0)
        place = earliest + (1 - earliest) * (1 - float(rng.random()))  # in (earliest, 1]: behind its needle
        key, value = keys[which], values[which]
        asked_text, answer_text = fmt.question_text(key), fmt.answer_text(key, value)
        inserts.append(
            _exchange(encode, asked_text, answer_text, fmt.ending, place=place, ending_weight=filler_weight)
        )
    return fill(
        inserts,
        length=length,
        rng=rng,
        haystack_ids=haystack_ids,
        prefix_ids=prefix_ids,
        filler_weight=filler_weight,
    )


def pairs_document(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    *,
    length: int,
    count: int,
    ending: str,
    rng: np.random.Generator,
    haystack_ids: Sequence[int],
    prefix_ids: Sequence[int] = (),
    filler_weight: float = 0.0,
) -> Document:
    """`count` random pairs of prompt and answer at random places of the filler."""
    inserts = [
        _exchange(
            encode,
            *pairs[int(rng.integers(len(pairs)))],
            ending,
            place=float(rng.random()),
            ending_weight=filler_weight,
        )
        for _ in range(count)
    ]
    return fill(
        inserts,
        length=length,
        rng=rng,
        haystack_ids=haystack_ids,
        prefix_ids=prefix_ids,
        filler_weight=filler_weight,
    )


def packed_pairs(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    *,
    length: int,
    ending: str,
    rng: np.random.Generator,
    prefix_ids: Sequence[int] = (),
) -> Document:
    """Random pairs in a row, each behind its prefix, cut at the length; answers and endings weigh."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        pair = pairs[int(rng.integers(len(pairs)))]
        piece = _exchange(encode, *pair, ending, place=0.0, ending_weight=1.0)
        ids += [*prefix_ids, *piece.ids]
        weights += [0.0] * len(prefix_ids) + piece.weights
    return Document(ids[:length], weights[:length])


def fill(
    inserts: Sequence[Insert],
    *,
    length: int,
    rng: np.random.Generator,
    haystack_ids: Sequence[int],
    prefix_ids: Sequence[int],
    filler_weight: float,
) -> Document:
    """Prefix, then the inserts in the order of their places, haystack between them; exactly `length` ids."""
    room = length - len(prefix_ids) - sum(len(piece.ids) for piece in inserts)
    if room < 0:
        raise InputError(
            "a training document does not fit its length",
            expected=f"at least {length - room} tokens",
            received=length,
            remedy="lengthen the stage or ask for fewer needles",
        )
    filler = circle(haystack_ids, int(rng.integers(len(haystack_ids))), room)
    cuts = np.sort(rng.integers(0, room + 1, len(inserts))).tolist()
    ids, weights, start = list(prefix_ids), [0.0] * len(prefix_ids), 0
    for cut, piece in zip(cuts, sorted(inserts, key=lambda piece: piece.place), strict=True):
        ids += filler[start:cut] + piece.ids
        weights += [filler_weight] * (cut - start) + piece.weights
        start = cut
    return Document(ids + filler[start:], weights + [filler_weight] * (room - start))


def _exchange(
    encode: Encode, question: str, answer: str, ending: str, *, place: float, ending_weight: float
) -> Insert:
    asked, answered, end = encode(question), encode(answer), encode(ending)
    weights = [0.0] * len(asked) + [1.0] * len(answered) + [ending_weight] * len(end)
    return Insert(place, asked + answered + end, weights)
