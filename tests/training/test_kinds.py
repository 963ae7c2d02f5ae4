from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from transformers import AutoTokenizer

from contextgraft.config.training import AnySource, load_recipe
from contextgraft.errors import InputError
from contextgraft.training.batches import Batches
from contextgraft.training.kinds import KINDS, Context, Maker, memoised, read_pairs
from contextgraft.training.schedule import Step


@pytest.fixture
def context(base: Path, recipe_folder: Path) -> Context:
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Context(memoised(encode), (0,), len(tokenizer), recipe_folder)


def maker(context: Context, **source: Any) -> Maker:
    parsed: Any = TypeAdapter(AnySource).validate_python(source)
    return KINDS[parsed.kind](parsed, context)


SOURCES: list[dict[str, Any]] = [
    {"kind": "needle", "format": "format.yaml"},
    {"kind": "repeat", "first": 2},
    {"kind": "text", "text": "haystack.txt"},
    {"kind": "pairs", "file": "pairs.jsonl", "ending": "."},
    {"kind": "pairs", "file": "pairs.jsonl", "ending": ".", "haystack": "haystack.txt", "count": 2},
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source["kind"]))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(24, 200), seed=st.integers(0, 2**32 - 1))
def test_documents_are_exact_and_a_function_of_the_generator(
    context: Context, source: dict[str, Any], length: int, seed: int
) -> None:
    make = maker(context, **source)
    document = make(np.random.default_rng(seed), length)
    assert len(document.ids) == len(document.weights) == length
    assert document.ids[0] == 0
    assert document.weights[0] == 0.0
    assert set(document.weights) <= {0.0, 0.05, 1.0}
    assert 1.0 in document.weights
    assert make(np.random.default_rng(seed), length) == document


def test_answers_weigh_one_and_follow_their_needles(context: Context) -> None:
    make = maker(context, **SOURCES[0])
    code, question, of = context.encode("code ? of")
    for seed in range(40):
        ids, weights = make(np.random.default_rng(seed), 96)
        known: dict[int, list[int]] = {}
        answered = 0
        for place, token in enumerate(ids):
            if token == code:
                known[ids[place + 2]] = ids[place + 3 : place + 5]
                assert weights[place : place + 6] == [0.0] * 6
            if token == question:
                assert ids[place + 1] == of
                assert ids[place + 3 : place + 5] == known[ids[place + 2]]
                assert weights[place + 3 : place + 5] == [1.0, 1.0]
                answered += 2
        assert weights.count(1.0) == answered > 0


def test_repeats_weigh_only_what_was_seen(context: Context) -> None:
    ids, weights = maker(context, **SOURCES[1])(np.random.default_rng(1), 50)
    first = weights.index(1.0)
    period = first - 2
    assert ids[first:] == ids[first - period : len(ids) - period]
    assert all(weights[first:])


def test_packed_pairs_begin_anew_each(context: Context) -> None:
    ids, weights = maker(context, **SOURCES[3])(np.random.default_rng(1), 60)
    starts = [place for place, token in enumerate(ids) if token == 0]
    assert starts == list(range(0, 60, 6))
    assert weights[:6] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_a_document_that_cannot_fit_is_refused(context: Context) -> None:
    with pytest.raises(InputError, match="does not fit"):
        maker(context, **SOURCES[4])(np.random.default_rng(0), 8)


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "x"}', '{"prompt": 1, "answer": "y"}'])
def test_bad_pairs_name_their_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_pairs(path)


def test_batches_depend_on_seed_and_step_alone(context: Context, recipe_folder: Path) -> None:
    recipe = load_recipe(recipe_folder / "recipe.yaml")
    step = Step(number=5, stage=0, length=32, rows=2)
    one, again = Batches(recipe, context, 1), Batches(recipe, context, 1)
    again.at(Step(0, 0, 16, 2))
    assert torch.equal(one.at(step).ids, again.at(step).ids)
    assert one.at(step).ids.shape == one.at(step).weights.shape == (2, 32)
    assert not torch.equal(one.at(step).ids, Batches(recipe, context, 2).at(step).ids)
    assert not torch.equal(one.at(step).ids, one.at(Step(6, 0, 32, 2)).ids)
