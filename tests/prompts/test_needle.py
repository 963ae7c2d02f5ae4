from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from contextgraft.errors import ConfigError, InputError
from contextgraft.prompts import haystack
from contextgraft.prompts.needle import (
    Encode,
    NeedleFormat,
    assemble,
    circle,
    evaluation_prompt,
    interleave,
    load_format,
)

SAMPLE = haystack.read("moby_dick_eval", base_dir=Path())[:20_000]
FORMAT = NeedleFormat(
    name="plain",
    needle=" The code of {key} is {value}.",
    question=" What is the code of {key}? It is",
    answer=" {value}",
    keys=("harbor", "anchor", "candle", "window", "garden"),
    values="number",
    haystack="moby_dick_eval",
)


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        [SAMPLE], trainers.WordLevelTrainer(vocab_size=500, special_tokens=["[UNK]"])
    )
    return tokenizer


def byte_pair() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([SAMPLE], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    return tokenizer


TOKENIZERS = {"word": word_level(), "bpe": byte_pair()}


def encoder(kind: str) -> Encode:
    return lambda text: list(TOKENIZERS[kind].encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(150, 900),
    depth=st.floats(0, 100),
    distractors=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    edges=st.tuples(st.lists(st.just(7), max_size=4), st.lists(st.just(9), max_size=4)),
)
def test_length_is_exact_and_recipe_rebuilds(  # noqa: PLR0917 - parametrize and hypothesis
    kind: str, length: int, depth: float, distractors: int, seed: int, edges: tuple[list[int], list[int]]
) -> None:
    encode = encoder(kind)
    ids = encode(SAMPLE)[:500]
    prompt = evaluation_prompt(
        FORMAT,
        encode,
        length=length,
        depth=depth,
        distractors=distractors,
        rng=np.random.default_rng(seed),
        haystack_ids=ids,
        prefix_ids=edges[0],
        suffix_ids=edges[1],
    )
    assert len(prompt.ids) + len(encode(prompt.answer)) == length
    assert prompt.ids[: len(edges[0])] == edges[0]
    assert prompt.ids[len(prompt.ids) - len(edges[1]) :] == edges[1]
    again = assemble(
        FORMAT, encode, prompt.recipe, haystack_ids=ids, prefix_ids=edges[0], suffix_ids=edges[1]
    )
    assert again == prompt


@pytest.mark.parametrize("depth", [0.0, 25.0, 50.0, 100.0])
def test_depth_places_the_needle(depth: float) -> None:
    encode = encoder("bpe")
    prompt = evaluation_prompt(
        FORMAT,
        encode,
        length=600,
        depth=depth,
        distractors=0,
        rng=np.random.default_rng(3),
        haystack_ids=encode(SAMPLE),
    )
    text = TOKENIZERS["bpe"].decode(prompt.ids, skip_special_tokens=False)
    before = encode(text[: text.index(" The code of")])
    item = prompt.recipe["items"][0]
    needle = len(encode(FORMAT.needle_text(item["key"], item["value"])))
    fill = len(prompt.ids) - needle - len(encode(FORMAT.question_text(item["key"])))
    assert abs(len(before) - depth / 100 * fill) <= 2
    assert item["value"] in text


def test_distractors_differ_from_the_needle() -> None:
    fmt = FORMAT.model_copy(update={"values": ("00", "01"), "value_words": 2})
    for seed in range(50):
        prompt = evaluation_prompt(
            fmt,
            encoder("word"),
            length=200,
            depth=50,
            distractors=3,
            rng=np.random.default_rng(seed),
            haystack_ids=[1] * 10,
        )
        items = prompt.recipe["items"]
        assert len({i["key"] for i in items}) == len({i["value"] for i in items}) == 4


def test_too_short_length_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        evaluation_prompt(
            FORMAT,
            encoder("bpe"),
            length=10,
            depth=0,
            distractors=0,
            rng=np.random.default_rng(0),
            haystack_ids=[1],
        )


def test_too_many_distractors_are_refused() -> None:
    with pytest.raises(InputError, match="too many distractors"):
        evaluation_prompt(
            FORMAT,
            encoder("bpe"),
            length=900,
            depth=0,
            distractors=5,
            rng=np.random.default_rng(0),
            haystack_ids=[1],
        )


@given(st.lists(st.integers(), min_size=1), st.integers(0, 40), st.integers(0, 100))
def test_circle_reads_round(ids: list[int], offset: int, count: int) -> None:
    offset %= len(ids)
    assert circle(ids, offset, count) == [ids[(offset + i) % len(ids)] for i in range(count)]


@given(st.lists(st.integers(0, 99), max_size=20), st.lists(st.integers(0, 20), max_size=5))
def test_interleave_keeps_everything(filler: list[int], cuts: list[int]) -> None:
    inserts = [(min(c, len(filler)), [-1000 - i]) for i, c in enumerate(sorted(cuts))]
    out = interleave(filler, inserts)
    assert [x for x in out if x > -1000] == [x for x in filler if x > -1000]
    assert len(out) == len(filler) + len(cuts)
    for cut, (mark,) in inserts:
        assert len([x for x in out[: out.index(mark)] if x > -1000]) == cut


def test_unknown_key_of_a_format_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("name: x\nneedel: y\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_format(path)
    assert "needle" in str(error.value)
    assert "\n" not in str(error.value)


def test_shipped_texts_share_nothing() -> None:
    train = haystack.read("moby_dick_train", base_dir=Path())
    evaluation = haystack.read("moby_dick_eval", base_dir=Path())
    long_lines = {line for line in train.splitlines() if len(line) > 80}
    assert long_lines
    assert not long_lines & set(evaluation.splitlines())
    assert max(len(train.encode()), len(evaluation.encode())) <= 400_000
