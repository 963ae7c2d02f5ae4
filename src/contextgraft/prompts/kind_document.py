"""Training documents with needle questions of any kind: several values, several keys, chains."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from contextgraft.errors import InputError
from contextgraft.prompts.generators import Pool
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SampledNeedles
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.tokens import Encode
from contextgraft.prompts.training_document import (
    MAX_FILL,
    SPLITS,
    Document,
    Filler,
    Insert,
    answered_question,
)

SPACING = 32  # a document has at most one group for this many tokens, and two more
MAX_DISTRACTORS = 3  # needles of a group that no question is about


def kind_document(
    fmt: NeedleFormat, kind: str, encode: Encode, filler: Filler, *, length: int, rng: np.random.Generator
) -> Document:
    """Groups of needles of one kind, each with its question behind them; a random number of those that fit.

    A question is about one to as many needles as the kind asks for; the keys of the groups differ. Answers
    have weight 1. Raises InputError if not even a question about one needle fits.
    """
    split = SPLITS[int(rng.integers(len(SPLITS)))]
    pools, most = fmt.pools(kind=kind), int(rng.integers(1, 2 + length // SPACING))

    def fitting(groups: Iterable[SampledNeedles]) -> list[Insert]:
        left = length * MAX_FILL - len(filler.prefix_ids)
        inserts: list[Insert] = []
        for group in groups:
            made = _inserts(fmt, kind, group, encode, split=split, ending_weight=filler.weight, rng=rng)
            size = sum(len(insert.ids) for insert in made)
            if size <= left:
                left -= size
                inserts += made
        return inserts

    inserts = fitting(_groups(pools, kind, most, rng)) or fitting(_groups(pools, kind, 0, rng))
    if not inserts:
        raise InputError(
            f"format {fmt.name}: a {kind} question does not fit a training document",
            received=f"{length} tokens",
            remedy="lengthen the stage, or give the source the `lengths` in which its questions fit",
        )
    return filler.document(inserts, length, rng)


def _inserts(
    fmt: NeedleFormat,
    kind: str,
    group: SampledNeedles,
    encode: Encode,
    *,
    split: float,
    ending_weight: float,
    rng: np.random.Generator,
) -> list[Insert]:
    """The needles of a group in the first `split` of the text, and each question behind its needles."""
    wording = fmt.wording(kind)
    inserts = []
    for item in group.items:
        ids = encode(wording.needle_text(item))
        inserts.append(Insert(item["at"] * split, ids, [0.0] * len(ids)))
    for indices in group.questions:
        asked = [group.items[index] for index in indices]
        if "{keys}" not in wording.question:  # an order that the question does not give is the text's
            asked.sort(key=lambda item: item["at"])
        earliest = split if split < 1 else max(item["at"] for item in asked)
        position = earliest + (1 - earliest) * (1 - float(rng.random()))  # in (earliest, 1]
        pair = wording.question_text(asked), wording.answer_text(kind, asked)
        inserts.append(
            answered_question(encode, pair, fmt.ending, position=position, ending_weight=ending_weight)
        )
    return inserts


def _groups(pools: NeedlePools, kind: str, most: int, rng: np.random.Generator) -> Iterator[SampledNeedles]:
    """At most `most` groups of random sizes, and a smallest one; no key and no value is in two of them."""
    count = NEEDLE_KINDS[kind].count
    sizes = [(int(rng.integers(1, count + 1)), int(rng.integers(MAX_DISTRACTORS + 1))) for _ in range(most)]
    keys: Pool = pools.keys
    if not isinstance(keys, str):
        keys = [keys[int(index)] for index in rng.permutation(len(keys))]
    values: set[str] = set()
    names: set[str] = set()  # those of a generator, which may give one again
    for needles, distractors in [*sizes, (1, 0)]:
        total = needles + distractors
        own = keys if isinstance(keys, str) else keys[:total]
        if total > pools.different_values or (not isinstance(own, str) and len(own) < total):
            continue
        depths = [100 * float(rng.random())]
        group = NEEDLE_KINDS[kind].sample(replace(pools, keys=own), depths, needles, distractors, rng)
        named = {item["key"] for item in group.items}
        drawn = {item["value"] for item in group.items if "value" in item}
        if named & names or (drawn & values and not NEEDLE_KINDS[kind].repeats_values):
            continue  # a question about it would have two answers
        names |= named
        values |= drawn
        keys = keys if isinstance(keys, str) else keys[len(own) :]
        yield group
