"""Kinds of training data: each makes ids and loss weights of one document from a random generator."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contextgraft.config.training import (
    DocumentsSource,
    NeedleSource,
    PairsSource,
    RepeatSource,
    TextSource,
)
from contextgraft.errors import InputError
from contextgraft.prompts.generators import draw
from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.tokens import Encode, cycle_tokens
from contextgraft.prompts.training_document import (
    Document,
    Filler,
    needle_document,
    packed_pairs,
    pairs_document,
)
from contextgraft.training.data.packing import Packed, packed_path

FULLEST = 0.85  # part of a document that needles and questions may fill


class Maker(Protocol):
    """Makes a document of an exact length."""

    def __call__(self, rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:
        """Drawn from the generator; `ordinal` counts the rows of this length that the source gave before."""


@dataclass(frozen=True)
class Context:
    """What makers need: the model's tokenizer, the recipe's folder, the run's work folder and seed."""

    encode: Encode
    prefix_ids: tuple[int, ...]
    vocabulary: int
    folder: Path
    work: Path = Path()
    seed: int = 0


def needle(source: NeedleSource, context: Context) -> Maker:
    """Documents of a needle format, with a random number of needles."""
    path = context.folder / source.format
    fmt = load_format(path)
    name, folder = (source.haystack, context.folder) if source.haystack else (fmt.haystack, path.parent)
    haystack_ids = context.encode(read_haystack(name, folder))
    filler = Filler(haystack_ids, context.prefix_ids, source.filler_weight)
    key, value = fmt.keys[0], _sample_value(fmt)
    needle_size = len(context.encode(fmt.needle_text(key, value)))
    query_size = len(context.encode(fmt.question_text(key))) + len(
        context.encode(fmt.answer_text(key, value) + fmt.ending)
    )

    def make(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        most = min(max(source.least + 2, length // source.spacing), source.most + 1)
        needles = min(int(rng.integers(source.least, most)), len(fmt.keys))
        queries = int(needles * source.queries) + 1
        while queries > 1 and needles * needle_size + queries * query_size > length * FULLEST:
            needles, queries = (needles, queries - 1) if queries > needles else (needles - 1, queries - 1)
        return needle_document(
            fmt,
            context.encode,
            filler,
            length=length,
            needles=needles,
            queries=queries,
            rng=rng,
        )

    return make


def repeat(source: RepeatSource, context: Context) -> Maker:
    """A random string of different tokens, repeated to the end; what is predictable weighs 1."""
    tokens = np.arange(source.first, context.vocabulary)
    if len(tokens) < 2:
        raise InputError(
            "no tokens to repeat",
            expected=f"first below {context.vocabulary - 1}: the tokenizer has {context.vocabulary} tokens",
            received=source.first,
        )

    def make(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        room = length - len(context.prefix_ids)
        period = int(rng.integers(max(2, room // 6), max(3, room // 2)))
        string = rng.choice(tokens, min(period, len(tokens)), replace=False).tolist()
        ids = [*context.prefix_ids, *cycle_tokens(string, 0, room)]
        known = len(context.prefix_ids) + len(string) + 1
        return Document(ids, [float(place >= known) for place in range(length)])

    return make


def text(source: TextSource, context: Context) -> Maker:
    """A stretch of plain text, every token weighing 1."""
    ids = context.encode(read_haystack(source.text, context.folder))

    def make(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        room = length - len(context.prefix_ids)
        stretch = cycle_tokens(ids, int(rng.integers(len(ids))), room)
        return Document([*context.prefix_ids, *stretch], [0.0] * len(context.prefix_ids) + [1.0] * room)

    return make


def pairs(source: PairsSource, context: Context) -> Maker:
    """Prompts with their answers, among haystack or packed."""
    rows = read_pairs(context.folder / source.file)
    filler = None
    if source.haystack:
        haystack_ids = context.encode(read_haystack(source.haystack, context.folder))
        filler = Filler(haystack_ids, context.prefix_ids, source.filler_weight)

    def make(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
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
            rows,
            context.encode,
            filler,
            length=length,
            count=source.count,
            ending=source.ending,
            rng=rng,
        )

    return make


def documents(source: DocumentsSource, context: Context) -> Maker:
    """Packed sequences; predicting the first token of a document from the one before weighs 0."""
    files: dict[int, Packed] = {}

    def make(rng: np.random.Generator, length: int, ordinal: int = 0) -> Document:  # noqa: ARG001
        if length not in files:
            files[length] = Packed(packed_path(context.work, source, length), context.seed)
        ids, starts = files[length].at(ordinal)
        weights = [1.0] * length
        for start in (0, *starts):
            weights[start] = 0.0
        return Document(ids, weights)

    return make


KINDS: dict[str, Callable[[Any, Context], Maker]] = {
    "needle": needle,
    "repeat": repeat,
    "text": text,
    "pairs": pairs,
    "documents": documents,
}


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Rows {"prompt", "answer"} of a JSONL file; InputError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the pairs", path=path, received=str(error)) from None
    rows = [_pair(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError("holds no pairs", path=path)
    return rows


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        prompt, answer = row["prompt"], row["answer"]
    except (ValueError, KeyError, TypeError):
        prompt = answer = None
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise InputError(f"line {number} is no pair", path=path, expected='{"prompt": text, "answer": text}')
    return prompt, answer


def _sample_value(fmt: NeedleFormat) -> str:
    return draw(fmt.values, fmt.value_words, np.random.default_rng(0))


def memoised(encode: Encode) -> Encode:
    """An encoder that remembers: needles repeat, and tokenizers are slow on short texts."""
    known: dict[str, list[int]] = {}

    def look_up(piece: str) -> list[int]:
        if piece not in known:
            known[piece] = encode(piece)
        return known[piece]

    return look_up


def choose(weights: Sequence[float], rng: np.random.Generator) -> int:
    """Index drawn with the given weights."""
    return int(rng.choice(len(weights), p=np.asarray(weights) / sum(weights)))
