"""Tokenizers with patterns or settings that do not end are refused in bounded time, others unchanged."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from contextgraft.errors import CheckpointError, ContextgraftError, InputError
from contextgraft.formats.model.limited_process import ProcessBudget, run_limited
from contextgraft.formats.tokenizer import limited_tokenizer
from contextgraft.formats.tokenizer.limited_tokenizer import load_limited_tokenizer

SMALL = ProcessBudget(cpu_seconds=0.3, memory=1 << 28)
TEXT = "a" * 2000 + "b"
Change = Callable[[dict[str, Any]], object]
SPLIT = r"\p{N}{1,3}| ?\p{L}+|\s+"  # as in tokenizers of today
REFUSED = "cannot be used|was stopped|no tokenizer that can be loaded|too large"


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_tokenizer, "USE", SMALL)
    monkeypatch.setattr(limited_tokenizer, "LOADING", ProcessBudget(cpu_seconds=20, memory=1 << 28))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, " a": 4, "12": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def change(folder: Path, edit: Change) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def replacement(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def nested(kind: str, key: str, depth: int) -> str:
    return f'{{"type":"{kind}","{key}":[' * depth + "]}" * depth


def split(pattern: str) -> Change:
    component = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda data: data.update(pre_tokenizer=component)


def normalizer(*parts: dict[str, Any]) -> Change:
    return lambda data: data.update(normalizer={"type": "Sequence", "normalizers": list(parts)})


def word_piece(data: dict[str, Any]) -> None:
    """Takes time in the square of a word's length."""
    vocab = {"[UNK]": 0, **{"##" * (n > 1) + "a" * n: n for n in range(1, 20)}}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    data.update(model={**model, "max_input_chars_per_word": 10**9, "vocab": vocab}, pre_tokenizer=None)


def added(data: dict[str, Any], count: int, **settings: Any) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokens = ({"id": 6 + n, "content": f"<{n}>", **flags, **settings} for n in range(count))
    data["added_tokens"] += list(tokens)


DOUBLING = [replacement({"String": "a"}, "aa")] * 40
PATTERNS: dict[str, Change] = {
    "repeated group": split(r"(a+)+$"),
    "at every position": split(r"(?:a|a){18}[cd]"),
    "look-behind": split(r"(?:(?=(a+))a)+$"),
    "back-reference": split(r"(a+)\1*\1*\1*\1*c"),
    "normalizer's pattern": normalizer(replacement({"Regex": "(a|aa)+$"}, "x")),
    "doubled forty times": normalizer(*DOUBLING),
    "a million for one": normalizer(replacement({"String": "a"}, "b" * 10**6)),
    "quadratic word pieces": word_piece,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_texts_that_do_not_end(folder: Path, name: str) -> None:
    change(folder, PATTERNS[name])
    tokenizer = load_limited_tokenizer(folder)
    text = TEXT * 10 if name == "quadratic word pieces" else TEXT
    with pytest.raises(CheckpointError, match=f"its tokenizer ({REFUSED})"):
        tokenizer.encode(text)


def test_a_tokenizer_that_was_stopped_stays_so(folder: Path) -> None:
    change(folder, PATTERNS["doubled forty times"])
    tokenizer = load_limited_tokenizer(folder)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="its tokenizer was stopped"):
            tokenizer.encode(TEXT)


def test_decoders_that_do_not_end(folder: Path) -> None:
    change(folder, lambda data: data.update(decoder={"type": "Sequence", "decoders": DOUBLING}))
    with pytest.raises(CheckpointError, match=REFUSED):
        load_limited_tokenizer(folder).decode([1, 2])


def growing(data: dict[str, Any]) -> None:
    """An added token that the normalizer doubles forty times."""
    added(data, 1, content="a", normalized=True)
    normalizer(*DOUBLING)(data)


LOADING: dict[str, Change] = {
    "added tokens that grow": growing,
    "an added token of a negative row": lambda data: added(data, 1, id=-1),
    "an added token of an endless row": lambda data: added(data, 1, id=10**30),
    "components in one another": lambda data: data.update(normalizer=json.loads(
        nested("Sequence", "normalizers", 400)
    )),
    "a pattern that is none": split("(a"),
    "an unknown component": lambda data: data.update(normalizer={"type": "Quux"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADING)
def test_files_that_cannot_be_loaded(folder: Path, name: str) -> None:
    change(folder, LOADING[name])
    with pytest.raises(ContextgraftError, match=REFUSED) as caught:
        load_limited_tokenizer(folder).encode(TEXT)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_many_added_tokens_are_loaded_in_bounded_time(folder: Path) -> None:
    change(folder, lambda data: added(data, 3000))
    assert load_limited_tokenizer(folder).encode("<2999>", add_special_tokens=False) == [3005]


def test_a_file_of_two_gigabytes_is_not_read(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 2 << 30)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: is too large.*received 2,147,483,648"):
        load_limited_tokenizer(folder)


def test_a_folder_without_files_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer that can be loaded"):
        load_limited_tokenizer(tmp_path)


def test_results_are_those_of_transformers(folder: Path) -> None:
    limited, hf = load_limited_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("", "a b ab 12", TEXT, "\U0001f600 a", "a\0b"):
        for special in (True, False):
            ids = hf.encode(text, add_special_tokens=special)
            assert limited.encode(text, add_special_tokens=special) == ids
            assert limited.decode(ids, skip_special_tokens=special) == hf.decode(
                ids, skip_special_tokens=special
            )
    assert limited.eos_token_id == hf.eos_token_id


def test_decoding_in_the_process_is_the_same(folder: Path) -> None:
    decoder = json.loads(decoders.Replace("b", "é").__getstate__())
    change(folder, lambda data: data.update(decoder=decoder))
    limited, hf = load_limited_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert limited.decode([1, 2, 3]) == hf.decode([1, 2, 3])
    assert "é" in limited.decode([2])


def test_processes_end(folder: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    tokenizer = load_limited_tokenizer(folder)
    tokenizer.encode("a")
    del tokenizer
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_linear_decoders_are_kinds_of_the_library() -> None:
    """The decoders that are trusted exist under these names."""
    kinds = {json.loads(make().__getstate__())["type"] for make in (
        decoders.ByteLevel, decoders.Metaspace, decoders.WordPiece, decoders.ByteFallback, decoders.Fuse,
        decoders.BPEDecoder,
    )}  # fmt: skip
    assert kinds == limited_tokenizer.LINEAR_DECODERS


def test_a_stricter_limit_of_memory_stays(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    stricter = 1 << 36
    resource.setrlimit(resource.RLIMIT_AS, (stricter, hard))
    try:
        budget = ProcessBudget(5, 1 << 42)
        limits = run_limited(lambda: str(resource.getrlimit(resource.RLIMIT_AS)), "it", tmp_path, budget)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert limits == str((stricter, stricter))
