from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from transformers import AutoTokenizer

from contextgraft.config.training import Recipe, load_recipe
from contextgraft.config.training.data import AnySource
from contextgraft.errors import InputError
from contextgraft.training.data.batches import BatchSampler
from contextgraft.training.data.context import DataContext, memoised
from contextgraft.training.data.packing import pack
from contextgraft.training.data.sources import KINDS, DocumentSampler, read_pairs
from contextgraft.training.reporting.progress import SilentReporter
from contextgraft.training.schedule import training_steps


@pytest.fixture
def context(base: Path, recipe_folder: Path) -> DataContext:
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return DataContext(memoised(encode), (0,), len(tokenizer), recipe_folder)


def sampler(context: DataContext, **source: Any) -> DocumentSampler:
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
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(24, 200), seed=st.integers(0, 2**32 - 1))
def test_documents_are_exact_and_a_function_of_the_generator(
    context: DataContext, source: dict[str, Any], length: int, seed: int
) -> None:
    sample = sampler(context, **source)
    document = sample(np.random.default_rng(seed), length)
    assert len(document.ids) == len(document.weights) == length
    assert document.ids[0] == 0
    assert document.weights[0] == 0.0
    assert set(document.weights) <= {0.0, 0.05, 1.0}
    assert 1.0 in document.weights
    assert sample(np.random.default_rng(seed), length) == document


def test_answers_weigh_one_and_follow_their_needles(context: DataContext) -> None:
    sample = sampler(context, **SOURCES[0])
    code, question, of = context.encode("code ? of")
    for seed in range(40):
        ids, weights, _ = sample(np.random.default_rng(seed), 96)
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


def test_repeats_weigh_only_what_was_seen(context: DataContext) -> None:
    ids, weights, _ = sampler(context, **SOURCES[1])(np.random.default_rng(1), 50)
    first = weights.index(1.0)
    period = first - 2
    assert ids[first:] == ids[first - period : len(ids) - period]
    assert all(weights[first:])


def test_packed_pairs_begin_anew_each(context: DataContext) -> None:
    ids, weights, _ = sampler(context, **SOURCES[3])(np.random.default_rng(1), 60)
    starts = [place for place, token in enumerate(ids) if token == 0]
    assert starts == list(range(0, 60, 6))
    assert weights[:6] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_a_document_that_cannot_fit_is_refused(context: DataContext) -> None:
    with pytest.raises(InputError, match="does not fit"):
        sampler(context, **SOURCES[4])(np.random.default_rng(0), 8)


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "x"}', '{"prompt": 1, "answer": "y"}'])
def test_bad_pairs_name_their_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_pairs(path)


def test_batches_depend_on_seed_and_step_alone(context: DataContext, recipe_folder: Path) -> None:
    recipe = load_recipe(recipe_folder / "recipe.yaml")
    plan = training_steps(recipe)
    one, again = BatchSampler(recipe, context, 1, plan), BatchSampler(recipe, context, 1, plan)
    first, second = (step for step in plan if step.stage == 0 and step.length == 32)
    again.batch(plan[0])
    again.batch(plan[-1])
    assert torch.equal(one.batch(first).ids, again.batch(first).ids)
    assert one.batch(first).ids.shape == one.batch(first).weights.shape == (2, 32)
    assert not torch.equal(one.batch(first).ids, BatchSampler(recipe, context, 2, plan).batch(first).ids)
    assert not torch.equal(one.batch(first).ids, one.batch(second).ids)


def test_each_document_comes_once_whatever_comes_between(context: DataContext, tmp_path: Path) -> None:
    """Twelve sequences, two a step; other sources take every fourth step, and other lengths some."""
    (tmp_path / "long.txt").write_text(" ".join(map(str, range(100, 196))), encoding="utf-8")
    content = {
        "name": "x",
        "stages": [{"length": 8, "steps": 40, "tokens": 16}],
        "replay": {"share": 0.3, "lengths": [4], "tokens": 8},
        "data": [
            {"kind": "documents", "files": ["long.txt"], "weight": 3, "lengths": [8]},
            {"kind": "repeat"},
        ],
        "optimiser": {"learning_rate": 1.0},
    }
    recipe = Recipe.model_validate(content)
    numbers = DataContext(lambda text: [int(word) for word in text.split()], (), 0, tmp_path)
    pack(recipe, numbers, tmp_path, datasets=None, reporter=SilentReporter())
    plan = training_steps(recipe)
    batches = BatchSampler(recipe, replace(context, work=tmp_path), 1, plan)
    rows = [row for step in plan for row in batches.batch(step).ids.tolist() if min(row) >= 100]
    assert 24 <= len(rows) < 2 * 28
    for start in range(0, len(rows) - 11, 12):
        assert sorted(rows[start : start + 12]) == [[*range(n, n + 8)] for n in range(100, 196, 8)]


def test_repeat_needs_tokens_to_repeat(context: DataContext) -> None:
    with pytest.raises(InputError, match=f"first below {context.vocabulary - 1}"):
        sampler(context, kind="repeat", first=context.vocabulary - 1)


def test_needles_are_no_more_than_the_most(context: DataContext) -> None:
    source = {"kind": "needle", "format": "format.yaml", "least": 3, "most": 3}
    (code,) = context.encode("code")
    for seed in range(5):
        assert sampler(context, **source)(np.random.default_rng(seed), 200).ids.count(code) == 3


def with_kinds(context: DataContext, **fields: Any) -> None:
    path = context.folder / "format.yaml"
    fmt = yaml.safe_load(path.read_text(encoding="utf-8"))
    kinds = {"multi_query": {"question": "? of {keys} all", "item": "{key} {value}", "joiner": " "}}
    path.write_text(yaml.safe_dump({**fmt, **kinds, **fields}), encoding="utf-8")


def test_questions_of_another_kind(context: DataContext) -> None:
    with_kinds(context)
    sample = sampler(context, kind="needle", format="format.yaml", question="multi_query")
    document = sample(np.random.default_rng(1), 200)
    assert len(document.ids) == 200
    assert 1.0 in document.weights


@pytest.mark.parametrize(
    ("question", "fields", "complaint"),
    [
        ("multi_qury", {}, "did you mean multi_query"),
        ("chain", {}, "no wording for chain questions"),
        ("multi_query", {"intro": "Below is a text."}, "training documents have none"),
    ],
)
def test_a_kind_that_cannot_be_trained_is_told_before_the_haystack_is_read(
    context: DataContext, question: str, fields: dict[str, str], complaint: str
) -> None:
    with_kinds(context, haystack="not-there.txt", **fields)
    with pytest.raises(InputError, match=complaint):
        sampler(context, kind="needle", format="format.yaml", question=question)


@pytest.mark.parametrize("setting", [{"chat": True}, {"least": 3}, {"queries": 2.0}])
def test_settings_of_single_needles_are_refused_for_other_kinds(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="settings of single needles"):
        TypeAdapter(AnySource).validate_python(
            {"kind": "needle", "format": "f.yaml", "question": "chain", **setting}
        )


def test_a_length_that_no_document_fits_is_told_before_the_first_step(
    context: DataContext, recipe_folder: Path
) -> None:
    recipe = load_recipe(recipe_folder / "recipe.yaml")
    late = recipe.model_copy(
        update={"stages": (recipe.stages[0], recipe.stages[0].model_copy(update={"length": 4}))}
    )
    with pytest.raises(InputError, match="does not fit"):
        BatchSampler(late, context, 1, training_steps(late))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"spacin": 3}, "unknown key 'data.0.needle.spacin'; did you mean spacing?"),
        (
            {"xyz": 3},
            "'data.0.needle.xyz'; expected one of chat, filler_weight, format, haystack, kind, least",
        ),
    ],
)
def test_a_wrong_key_of_a_source_is_answered_with_the_keys_of_its_kind(
    recipe_folder: Path, section: dict[str, Any], said: str
) -> None:
    path = recipe_folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["data"] = [{"kind": "needle", "format": "format.yaml", **section}]
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_recipe(path)
    assert said in str(error.value)
