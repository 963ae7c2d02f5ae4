"""The kinds of needle questions. To add one, write its sampling function and one entry of NEEDLE_KINDS.

Formats, the command line and studies read the registry. Only the standard library is imported, so that the
command line can list the kinds without loading anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from contextgraft.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from contextgraft.prompts.sampling import NeedlePools

SINGLE = "single"  # its templates are the format's own; every other kind has a section of its name


class SampledNeedles(NamedTuple):
    """Needles ("key", "value" or "previous", "at"), and for each question the indices of its needles."""

    items: list[dict[str, Any]]
    questions: list[list[int]]


Sampler = Callable[["NeedlePools", Sequence[float], int, int, "np.random.Generator"], SampledNeedles]


@dataclass(frozen=True)
class NeedleKind:
    """How questions of one kind are sampled, worded and answered.

    `sample(pools, depths, count, distractors, rng)`: depths in percent; `count` needles in one question.
    `slots`: what each template of the kind must contain. `answer_field`: "key" or "value", whichever the
    question asks for. `count`: needles in one question by default. `per_depth`: one question about one needle
    for each depth; otherwise one question about all `count` needles, and the answer is a list.
    `repeats_values`: several keys have the same value.
    """

    sample: Sampler
    slots: Mapping[str, tuple[str, ...]]
    answer_field: str = "value"
    count: int = 1
    per_depth: bool = False
    repeats_values: bool = False


def sample_single(
    pools: "NeedlePools", depths: Sequence[float], _: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """A question for each depth about the needle there; different keys and values throughout.

    Each needle is a distractor of the others; more are added at random positions to make `distractors`.
    """
    total = max(len(depths), distractors + 1)
    keys, values = pools.draw_keys(total, rng), pools.draw_values(total, rng)
    positions = [*(depth / 100 for depth in depths), *pools.positions(rng, total - len(depths))]
    items = _items(keys, values, positions)
    return SampledNeedles(items, [[index] for index in range(len(depths))])


def sample_association(
    pools: "NeedlePools", depths: Sequence[float], count: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """As single needles; the text names the clue of a key, and the question the key itself."""
    items, questions = sample_single(pools, depths, count, distractors, rng)
    return SampledNeedles([pools.with_clue(item) for item in items], questions)


def sample_labels(
    pools: "NeedlePools", depths: Sequence[float], _: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """As single needles; each value is drawn from a few labels."""
    total = max(len(depths), distractors + 1)
    keys = pools.draw_keys(total, rng)
    values = [pools.draw_label(rng) for _ in keys]
    positions = [*(depth / 100 for depth in depths), *pools.positions(rng, total - len(depths))]
    return SampledNeedles(_items(keys, values, positions), [[index] for index in range(len(depths))])


def sample_multi_value(
    pools: "NeedlePools", _: Sequence[float], count: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """One key with `count` values."""
    keys = pools.draw_keys(1 + distractors, rng)
    return _one_question(pools, [keys[0]] * (count - 1) + keys, count, rng)


def sample_multi_query(
    pools: "NeedlePools", _: Sequence[float], count: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """`count` keys with a value each, all in one question."""
    return _one_question(pools, pools.draw_keys(count + distractors, rng), count, rng)


def sample_chain(
    pools: "NeedlePools", _: Sequence[float], count: int, distractors: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """`count` names of one value, each assigned from the previous one, in the order of the text.

    A distractor is a name with another value.
    """
    names = pools.draw_keys(count + distractors, rng)
    values = pools.draw_values(1 + distractors, rng)
    chain, others = names[:count], names[count:]
    positions = [*sorted(pools.positions(rng, count)), *pools.positions(rng, distractors)]
    items: list[dict[str, Any]] = [{"key": chain[0], "value": values[0]}]
    items += [{"key": key, "previous": previous} for previous, key in pairwise(chain)]
    items += [{"key": key, "value": value} for key, value in zip(others, values[1:], strict=True)]
    placed = [{**item, "at": at} for item, at in zip(items, positions, strict=True)]
    return SampledNeedles(placed, [list(range(count))])


def _one_question(
    pools: "NeedlePools", keys: Sequence[str], count: int, rng: "np.random.Generator"
) -> SampledNeedles:
    """A needle for each key at a random position, and one question about the first `count`."""
    values, positions = pools.draw_values(len(keys), rng), pools.positions(rng, len(keys))
    return SampledNeedles(_items(keys, values, positions), [list(range(count))])


def _items(keys: Sequence[str], values: Sequence[str], positions: Sequence[float]) -> list[dict[str, Any]]:
    return [{"key": k, "value": v, "at": at} for k, v, at in zip(keys, values, positions, strict=True)]


NEEDLE = ("{key}", "{value}")
NEEDLE_KINDS: dict[str, NeedleKind] = {  # counts are RULER's: a chain of five names has four hops
    SINGLE: NeedleKind(
        sample_single, {"needle": NEEDLE, "question": ("{key}",), "answer": ("{value}",)}, per_depth=True
    ),
    "multi_value": NeedleKind(
        sample_multi_value, {"needle": NEEDLE, "question": ("{key}",), "answer": ("{answers}",)}, count=4
    ),
    "multi_query": NeedleKind(
        sample_multi_query, {"needle": NEEDLE, "question": ("{keys}",), "answer": ("{answers}",)}, count=4
    ),
    "chain": NeedleKind(
        sample_chain,
        {
            "needle": NEEDLE,
            "link": ("{key}", "{previous}"),
            "question": ("{value}",),
            "answer": ("{answers}",),
        },
        answer_field="key",
        count=5,
    ),
    # no word in common between needle and question, as NoLiMa (Modarressi et al. 2025, arXiv 2502.05167)
    "association": NeedleKind(
        sample_association,
        {"needle": ("{clue}", "{value}"), "question": ("{key}",), "answer": ("{value}",)},
        per_depth=True,
    ),
    # recall from a JSON object, as Liu et al. 2023 (arXiv 2307.03172) and HELMET
    "key_value": NeedleKind(
        sample_single, {"needle": NEEDLE, "question": ("{key}",), "answer": ("{value}",)}, per_depth=True
    ),
    # many examples with labels, one of which is asked for again
    "labels": NeedleKind(
        sample_labels,
        {"needle": NEEDLE, "question": ("{key}",), "answer": ("{value}",)},
        per_depth=True,
        repeats_values=True,
    ),
}


def check_needle_kinds(kinds: Iterable[str]) -> None:
    """InputError for the first name that is not in NEEDLE_KINDS."""
    for kind in kinds:
        if kind not in NEEDLE_KINDS:
            raise InputError(
                "unknown kind of needle question",
                expected=f"one of {', '.join(NEEDLE_KINDS)}",
                received=kind,
                remedy=did_you_mean(kind, NEEDLE_KINDS),
            )
