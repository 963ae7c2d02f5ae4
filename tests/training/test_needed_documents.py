"""Documents with `read: needed`: the sequences that the steps take, from the first documents, and no more."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from contextgraft.config.training import Recipe
from contextgraft.config.training.data import DocumentsSource
from contextgraft.prompts.training_document import Document
from contextgraft.training.data import tokenising
from contextgraft.training.data.batches import BatchSampler
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.packing import PACKED, document_sources, pack, packed_path
from contextgraft.training.data.sources import KINDS
from contextgraft.training.reporting.progress import SilentReporter
from contextgraft.training.schedule import training_steps
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import RECIPE, WORDS, interrupt, write_recipe

Rows = list[list[int]]


def recipe(seed: int = 1, **source: Any) -> Recipe:
    """Two sources of documents, so that chance decides how many steps each has."""
    first = {"kind": "documents", "files": ["many.jsonl"], "weight": 2, "read": "needed", **source}
    other = {"kind": "documents", "files": ["one.txt"], "lengths": [16, 32]}
    return Recipe.model_validate({**RECIPE, "seed": seed, "data": [first, other]})


def write_documents(folder: Path, count: int) -> None:
    texts = [" ".join(str(number) for _ in range(20)) for number in range(count)]
    (folder / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "one.txt").write_text("7 " * 400)


def packed_rows(recipe: Recipe, folder: Path) -> dict[int, Rows]:
    """The sequences of the first source in the order of the documents, by length."""
    source = document_sources(recipe)[0]
    paths = {length: packed_path(folder, source, length) for length in (16, 32, 64)}
    return {length: read_rows(path) for length, path in paths.items() if path.exists()}


def read_rows(path: Path) -> Rows:
    rows: Rows = pq.read_table(path)["ids"].to_pylist()
    return rows


def rows_taken(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many rows of each length the batches of all steps take from the first source."""
    taken: Counter[int] = Counter()

    def count(source: DocumentsSource, _: DataContext) -> Any:
        def sample(rng: object, length: int, ordinal: int = 0) -> Document:
            if source.files == ("many.jsonl",):
                assert ordinal == taken[length]
                taken[length] += 1
            return Document([0] * length, [1.0] * length)

        return sample

    monkeypatch.setitem(KINDS, "documents", count)
    steps = training_steps(recipe)
    sampler = BatchSampler(recipe, DataContext(lambda _: [], (), 9, Path()), recipe.seed, steps)
    for step in steps:
        sampler.batch(step)
    return taken


@pytest.mark.parametrize("seed", range(1, 5))
def test_as_many_sequences_are_packed_as_the_batches_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """They are the first ones of all documents; later documents are not tokenised."""
    monkeypatch.setattr(tokenising, "TASK_CHARACTERS", 1)
    write_documents(tmp_path, 300)
    asked: Counter[str] = Counter()

    def encode(text: str) -> list[int]:
        asked[text] += 1
        return [int(word) for word in text.split()]

    wanted, context = recipe(seed), DataContext(encode, (), 999, tmp_path)
    pack(wanted, context, tmp_path, datasets=None, reporter=SilentReporter())
    packed = packed_rows(wanted, tmp_path)
    assert {length: len(rows) for length, rows in packed.items()} == rows_taken(wanted, monkeypatch)
    ids = [number for number in range(300) for _ in range(20)]
    for length, rows in packed.items():
        assert rows == [ids[begin : begin + length] for begin in range(0, len(rows) * length, length)]
    tokens = max(len(rows) * length for length, rows in packed.items())
    assert set(asked.values()) == {1}
    assert len(asked) <= tokens // 20 + 1 + 2 + 1  # the last one, two ahead, and the other source


def test_too_few_documents_are_packed_as_without_the_key(tmp_path: Path) -> None:
    write_documents(tmp_path, 10)
    context = DataContext(lambda text: [int(word) for word in text.split()], (0,), 999, tmp_path)
    rows = []
    for read in ("all", "needed"):
        wanted = recipe(read=read, weight=1000)
        pack(wanted, context, tmp_path / read, datasets=None, reporter=SilentReporter())
        rows.append(packed_rows(wanted, tmp_path / read))
    assert rows[0][64]
    assert rows[0][64] == rows[1][64]


def test_a_source_that_no_step_takes_is_not_read(tmp_path: Path) -> None:
    write_documents(tmp_path, 10)
    never = {"kind": "documents", "files": ["none.txt"], "weight": 1e-9, "read": "needed"}
    wanted = Recipe.model_validate(
        {**RECIPE, "data": [never, {"kind": "documents", "files": ["many.jsonl"]}]}
    )
    context = DataContext(lambda text: [int(word) for word in text.split()], (), 999, tmp_path)
    pack(wanted, context, tmp_path, datasets=None, reporter=SilentReporter())
    assert len(list((tmp_path / PACKED).iterdir())) == 3


def test_an_interrupted_run_ends_with_the_same_bytes(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(WORDS[(number + place) % len(WORDS)] for place in range(40)) for number in range(99)]
    (recipe_folder / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = [{"kind": "documents", "files": ["many.jsonl"], "read": "needed"}]
    config = write_recipe(recipe_folder, data=data)
    train(config, base, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    interrupt(monkeypatch, 4, lambda: train(config, base, stopped, TrainingOptions(checkpoint_seconds=0)))
    train(config, base, stopped)
    held = [{path.name: path.read_bytes() for path in out.iterdir()} for out in (tmp_path / "whole", stopped)]
    assert held[0] == held[1]
