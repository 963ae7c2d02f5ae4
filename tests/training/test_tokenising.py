"""Documents tokenised by several processes: the same ids, in the same order, and the same files."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe
from contextgraft.errors import CheckpointError
from contextgraft.prompts.tokens import Encode
from contextgraft.training.data import tokenising
from contextgraft.training.data.context import DataContext, load_context
from contextgraft.training.data.packing import (
    PACKED,
    PackedSequences,
    document_sources,
    pack,
    packed_path,
)
from contextgraft.training.data.tokenising import TOKENISED, encode_in_order
from contextgraft.training.reporting.progress import SilentReporter, TrainingReporter

from .conftest import FILLER, RECIPE, WORDS, Recorder

RECIPES = Recipe.model_validate({**RECIPE, "data": [{"kind": "documents", "files": ["many.jsonl"]}]})
LENGTHS = (16, 32, 64)


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Documents of one word to many, in `many.jsonl`."""
    rng = np.random.default_rng(1)
    made = [" ".join(rng.choice([*WORDS[2:], *FILLER], rng.integers(1, 90))) for _ in range(60)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in made))
    return made


def pack_into(work: Path, context: DataContext, reporter: TrainingReporter | None = None) -> dict[str, bytes]:
    """The files of the recipe's packed documents."""
    pack(RECIPES, context, work, datasets=None, reporter=reporter or SilentReporter())
    return {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*.parquet")}


def test_the_number_of_processes_changes_no_byte(
    base: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference of the ids is transformers' tokenizer."""
    monkeypatch.setattr(tokenising, "TASK_CHARACTERS", 300)
    packed = []
    for count in (1, 4):
        monkeypatch.setattr(tokenising, "process_count", lambda count=count: count)
        packed.append(pack_into(tmp_path / f"{count}", load_context(open_model(base), tmp_path)))
    assert packed[0] == packed[1]
    assert len(packed[0]) == len(LENGTHS)
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = [each for text in texts for each in tokenizer(text, add_special_tokens=False)["input_ids"]]
    (source,) = document_sources(RECIPES)
    for length in LENGTHS:
        rows = PackedSequences(packed_path(tmp_path / "4", source, length), 0)
        found = sorted(rows.row(number)[0] for number in range(len(ids) // length))
        assert found == sorted(ids[end - length : end] for end in range(length, len(ids) + 1, length))


def test_ids_come_in_the_order_of_the_texts_and_few_texts_are_read_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenising, "TASK_CHARACTERS", 1)
    read, threads = [0], set()

    def texts() -> Iterator[str]:
        for number in range(40):
            read[0] += 1
            yield str(number)

    def encode(text: str) -> list[int]:
        threads.add(threading.get_ident())
        time.sleep(0.01 if int(text) % 3 == 0 else 0)  # later texts are done first
        return [int(text)]

    for number, ids in enumerate(encode_in_order(texts(), [encode] * 3)):
        assert ids.tolist() == [number]
        assert read[0] <= number + 6  # two for each encoder
    assert read[0] == 40
    assert len(threads) == 3


def test_an_encoder_is_used_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenising, "TASK_CHARACTERS", 1)
    locks = [threading.Lock() for _ in range(3)]

    def encoder(lock: threading.Lock) -> Encode:
        def encode(text: str) -> list[int]:
            assert lock.acquire(blocking=False)
            time.sleep(0.002)
            lock.release()
            return [len(text)]

        return encode

    ids = encode_in_order(["a", "bb"] * 30, [encoder(lock) for lock in locks])
    assert [each.tolist() for each in ids] == [[1], [2]] * 30


def test_a_text_that_fails_ends_the_packing_with_its_error(texts: list[str], tmp_path: Path) -> None:
    def encode(text: str) -> list[int]:
        if text == texts[40]:
            raise CheckpointError("its tokenizer was stopped", path=tmp_path)
        return [1]

    with pytest.raises(CheckpointError, match="was stopped"):
        pack_into(tmp_path / "work", DataContext(encode, (), 0, tmp_path))
    assert not list((tmp_path / "work" / PACKED).iterdir())


@pytest.mark.usefixtures("texts")
def test_a_stop_while_texts_are_tokenised_does_not_wait_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenising, "TASK_CHARACTERS", 1)
    asked = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [1]

    context = DataContext(encode, (), 0, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pack_into(tmp_path / "work", context, Recorder(stop=lambda: len(asked) > 5))
    assert len(asked) < 12
    assert not list((tmp_path / "work" / PACKED).iterdir())


@pytest.mark.parametrize("missing", LENGTHS[:2])
@pytest.mark.usefixtures("texts")
def test_ids_that_a_killed_run_left_are_removed_also_when_one_length_is_missing(
    tmp_path: Path, missing: int
) -> None:
    context = DataContext(lambda text: [len(word) for word in text.split()], (0,), 100, tmp_path)
    whole = pack_into(tmp_path / "work", context)
    (source,) = document_sources(RECIPES)
    spoiled = packed_path(tmp_path / "work", source, missing)
    (spoiled / "00000.parquet").write_bytes(b"torn")
    (tmp_path / "work" / PACKED / f"{TOKENISED}killed").mkdir()
    assert pack_into(tmp_path / "work", context) == whole
    assert len(list((tmp_path / "work" / PACKED).iterdir())) == len(LENGTHS)
