"""Readers instead of models: who reads all of a prompt is always right, who sees only its end only there.

They read the wording that ships with the package, through the whole way of `evaluate`: prompts, backend,
response cache, table. A reader may write no more tokens than a model may.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.evaluation.backends.base import ChunkedBackend, GenerationRequest
from contextgraft.evaluation.backends.registry import BACKENDS, BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.needle_grid import DEFAULT_FORMAT, read_grid
from contextgraft.evaluation.suites.ruler import RulerGrid, read_ruler
from contextgraft.prompts.generators import LETTERS
from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.needle_format import load_format
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS
from contextgraft.prompts.ruler.tasks import NEEDLE_TASKS, load_wording, needle_wording

from .conftest import save_model

Scored = list[tuple[Question, float]]
PROSE = "sea.txt"  # the beginning of the shipped prose: the whole of it takes a second to encode
HAYSTACKS = (PROSE, "noise", "needles", "code")
LISTS = ("common_words", "frequent_words")
PEOPLE = {"Anna": "Lidu", "Boris": "Kemo", "Clara": "Nafi", "Daniel": "Suro", "Emma": "Pelda"}
RIVERS = dict(zip(PEOPLE.values(), ("Moro", "Vanti", "Gelo", "Tasse", "Bruni"), strict=True))


def secrets(seen: str, question: re.Match[str]) -> list[str]:
    """The values of the keys that the question names."""
    what, keys = question[1], question[2].split(", ")
    needle = rf"\s(?:The secret {what}|One of the secret {what}s) of %s is ([\w-]+)\."
    return [value for key in keys for value in re.findall(needle % re.escape(key), seen)]


def same_value(seen: str, question: re.Match[str]) -> list[str]:
    """The names that a value was handed on to, as far as the chain is seen from its beginning."""
    found = [name for name, value in re.findall(SET, seen) if value == question[1]]
    links = re.findall(LINK, seen)
    for name in found:  # grows as it is walked
        found += [heir for heir, origin in links if origin == name]
    return found


SET = r"\s(?:SET|The number of) (\w+) (?:=|is) ([\w-]+)\."
LINK = r"\s(?:SET|The number of) (\w+) (?:= SET|is that of) (\w+)\."


def commonest(seen: str, _: re.Match[str]) -> list[str]:
    """The ten words that stand most often in the last list."""
    words = re.findall(r"\d+\. (\w+)", seen.rpartition("Below is a list")[2])
    return [word for word, _ in Counter(words).most_common(10)]


def most_frequent(seen: str, _: re.Match[str]) -> list[str]:
    """The three words that stand most often in the coded text."""
    text = seen.rpartition("that stand most often.\n")[2].partition("\nQuestion:")[0]
    return [word for word, _ in Counter(re.findall(r"\w+", text)).most_common(3)]


def river(seen: str, question: re.Match[str]) -> list[str]:
    """What the documents say, one after the other."""
    town = re.search(rf"{question[1]} was born in (\w+)\.", seen)
    return re.findall(rf"{town[1]} stands on the river (\w+)\.", seen) if town else []


LANDMARKS = load_format(DEFAULT_FORMAT).wording("association").associations


def neighbour(seen: str, question: re.Match[str]) -> list[str]:
    """Who lives next to the landmark of the town."""
    return re.findall(rf" ([\w-]+) lives next to {re.escape(LANDMARKS[question[1]])}\.", seen)


def value_of_key(seen: str, question: re.Match[str]) -> list[str]:
    """The value of a key of the JSON object."""
    return re.findall(rf'\n "{question[1]}": "([\w-]+)",', seen)


def label(seen: str, question: re.Match[str]) -> list[str]:
    """The label of the example with these words."""
    return re.findall(rf"\n{re.escape(question[1])}: ([\w-]+)", seen)


READINGS: dict[str, Callable[[str, re.Match[str]], list[str]]] = {  # by what a prompt ends with
    r"The secret (number|code)s? of ([^?]+?)(?: in the text above)? (?:is|are)$": secrets,
    r"have the (?:number|value) ([\w-]+)(?: are|:)$": same_value,
    r"words that stand most often in the list are:$": commonest,
    r"The person who has been to ([^?]+) is$": neighbour,
    r'The value of the key "([\w-]+)" is$': value_of_key,
    r"example that is repeated\.\n([\w-]+):$": label,
    r"coded words that stand most often are:$": most_frequent,
    r"On which river was (\w+) born\?\nAnswer:$": river,
}


class Reader:
    """Answers from the last `window` tokens of a prompt, from all of them if it is None."""

    def __init__(self, tokens: PromptTokenizer, window: int | None) -> None:
        self.tokens = tokens
        self.window = window or 0

    def __call__(self, requests: Sequence[GenerationRequest]) -> list[str]:
        return [self.answer(request) for request in requests]

    def answer(self, request: GenerationRequest) -> str:
        seen = self.tokens.decode(request.prompt_ids[-self.window :])
        found = next((read(seen, m) for end, read in READINGS.items() if (m := re.search(end, seen))), [])
        written = self.tokens.encode(" " + (" ".join(found) or "nothing"))
        return self.tokens.decode(written[: request.max_new_tokens])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is never run, with a tokenizer that writes two capital letters as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pairs = " ".join(a + b for a in LETTERS for b in LETTERS)
    texts = [read_haystack("prose", Path())[:20_000], pairs]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet))
    path = tmp_path_factory.mktemp("reader")
    save_model(path, vocab_size=2000)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return path


# samples of a cell, lengths of needles and of RULER
SIZES = [
    pytest.param((1, (700,), (2000,)), id="small"),
    pytest.param((2, (700, 1400), (2000, 6000)), id="large", marks=pytest.mark.slow),
]


@pytest.fixture(params=SIZES)
def needles(tmp_path: Path, request: pytest.FixtureRequest) -> EvalSpec:
    """Every kind in every haystack, and with every kind of value."""
    (tmp_path / PROSE).write_text(read_haystack("prose", Path())[:50_000])
    path = tmp_path / "format.yaml"
    path.write_text(DEFAULT_FORMAT.read_text().replace("haystack: prose", f"haystack: {PROSE}"))
    questions = [(kind, text, "number") for kind in NEEDLE_KINDS for text in (None, *HAYSTACKS[1:])]
    questions += [(kind, None, values) for kind in NEEDLE_KINDS for values in ("word", "uuid")]
    samples, lengths, _ = request.param
    size: dict[str, Any] = {"lengths": lengths, "depths": (0.0, 50.0, 100.0), "samples": samples}
    grids = [
        read_grid(path, **size, distractors=distractors, kind=kind, haystack=text, values=values)
        for kind, text, values in questions
        for distractors in ((0, 2) if kind == "single" else (2,))
    ]
    return EvalSpec(tuple(grids), seed=11)


@pytest.fixture(params=SIZES)
def ruler(tmp_path: Path, request: pytest.FixtureRequest) -> EvalSpec:
    """All thirteen tasks; the documents of qa are sentences that can be read."""
    born = {who: f"{who} was born in {town}." for who, town in PEOPLE.items()}
    stands = {town: f"{town} stands on the river {name}." for town, name in RIVERS.items()}
    qas = [(f"On which river was {who} born?", who, town, RIVERS[town]) for who, town in PEOPLE.items()]
    squad = [
        {
            "context": f"{born[who]} {stands[town]}",
            "qas": [{"question": question, "answers": [{"text": "the " + name}, {"text": name}]}],
        }
        for question, who, town, name in qas
    ]
    hotpot = [
        {"question": question, "answer": name, "context": [[who, [born[who]]], [town, [stands[town]]]]}
        for question, who, town, name in qas
    ]
    data = {"qa_1": {"data": [{"paragraphs": [each]} for each in squad]}, "qa_2": hotpot}
    files = {name: tmp_path / f"{name}.json" for name in data}
    for name, path in files.items():
        path.write_text(json.dumps(data[name]))
    samples, _, lengths = request.param
    suite = read_ruler(lengths=lengths, samples=samples, tasks=RULER_TASKS, qa=files)
    return EvalSpec((suite,), seed=11)


Sit = Callable[[EvalSpec, int | None], Scored]


def replayed(folder: Path, out: Path, spec: EvalSpec) -> list[tuple[Any, ...]]:
    """The first row of each task, kind and haystack, replayed with another seed: what does not agree."""
    firsts: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(pq.read_table(out).to_pylist()):
        firsts.setdefault(tuple(row[name] for name in ("suite", "task", "kind", "haystack")), number)
    other = replace(spec, seed=99)
    return [
        name
        for name, number in firsts.items()
        if not replay_sample(read_row(out, number), folder, other, BackendConfig()).agrees
    ]


@pytest.fixture
def sit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sit:
    """Lets a reader answer an spec; its questions and scores."""

    def run(spec: EvalSpec, window: int | None) -> Scored:
        monkeypatch.setitem(
            BACKENDS, "hf", lambda each, *_: ChunkedBackend(Reader(each.tokenizer, window), 16)
        )
        out = tmp_path / f"{window}.parquet"
        rows = evaluate_models([("reader", folder)], spec, BackendConfig(), out, Silent()).to_pylist()
        questions = spec.questions(load_tokenizer(folder))
        assert [(r["task"], r["recipe"], r["prompt_tokens"], r["status"]) for r in rows] == [
            (q.task, q.prompt_spec, len(q.ids), "ok") for q in questions
        ]
        return list(zip(questions, [row["score"] for row in rows], strict=True))

    return run


class Silent:
    """Watches nothing."""

    def model(self, label: str, units: Any, known: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def prefilled(self, prompt: int, computed: int) -> None: ...
    def kept(self, label: str) -> None: ...


def wrong(scored: Scored) -> list[tuple[Any, ...]]:
    return [(q.suite, q.task, q.kind, q.haystack, q.length, q.answer) for q, score in scored if score != 1]


def seen_share(question: Question, window: int, tokens: PromptTokenizer) -> float:
    """The score of a reader of the end, from the places of what it must find among the prompt's ids."""
    recipe = json.loads(question.prompt_spec)
    texts = SENTENCES[question.suite](question, recipe)
    begins = [place(question.ids, tokens.encode(text)) for text in texts]
    visible = [begin >= len(question.ids) - window for begin in begins]
    together = question.kind in {"chain", "qa"}  # nothing is found unless all is seen
    return float(all(visible)) if together else sum(visible) / len(visible)


def needle_sentences(question: Question, recipe: dict[str, Any]) -> list[str]:
    """The needles that the question names, as they stand in the text."""
    wording = load_format(DEFAULT_FORMAT).wording(recipe["kind"])
    return [wording.needle_text(recipe["items"][item]) for item in recipe["questions"][recipe["asked"]]]


def ruler_sentences(question: Question, recipe: dict[str, Any]) -> list[str]:
    """The needles or documents that the question names."""
    if question.task in NEEDLE_TASKS:
        wording = needle_wording(question.task, load_wording(None)[0])
        return [wording.needle_text(recipe["items"][item]) for item in recipe["questions"][0]]
    name = json.loads(question.answer)[-1]
    town = next(town for town, stream in RIVERS.items() if stream == name)
    who = next(who for who, home in PEOPLE.items() if home == town)
    born, stands = f"{who} was born in {town}.", f"{town} stands on the river {name}."
    return [f"{born} {stands}"] if question.task == "qa_1" else [f"{who}\n{born}", f"{town}\n{stands}"]


SENTENCES = {"needle": needle_sentences, "ruler": ruler_sentences}


def place(ids: Sequence[int], part: Sequence[int]) -> int:
    """Where some ids stand among others; the last place, if there are several."""
    text, wanted = "".join(f" {n} " for n in ids), "".join(f" {n} " for n in part)
    assert wanted in text
    return text[: text.rindex(wanted)].count("  ") + (text.rindex(wanted) > 0)


def test_a_reader_of_everything_is_right_about_every_kind_of_needle_and_is_replayed(
    needles: EvalSpec, sit: Sit, folder: Path, tmp_path: Path
) -> None:
    scored = sit(needles, None)
    assert wrong(scored) == []
    assert replayed(folder, tmp_path / "None.parquet", needles) == []
    assert {(q.kind, q.haystack) for q, _ in scored} == {(k, h) for k in NEEDLE_KINDS for h in HAYSTACKS}
    assert {q.scoring for q, _ in scored} == {"exact", "recall"}


@pytest.mark.slow
def test_a_reader_of_the_end_finds_the_needles_that_stand_there(
    needles: EvalSpec, sit: Sit, folder: Path
) -> None:
    window, tokens = 400, load_tokenizer(folder)
    scored = sit(needles, window)
    found = [(q.kind, q.haystack, q.length, q.index, score) for q, score in scored]
    due = [(q.kind, q.haystack, q.length, q.index, seen_share(q, window, tokens)) for q, _ in scored]
    assert found == due
    assert {score for q, score in scored if q.kind in {"single", "chain"}} == {0.0, 1.0}
    for kind in ("association", "key_value", "labels"):
        assert {score for q, score in scored if q.kind == kind} == {0.0, 1.0}, kind
    assert len({score for q, score in scored if q.kind == "multi_value"}) > 2


def test_a_reader_of_everything_is_right_about_all_of_rulers_tasks_and_is_replayed(
    ruler: EvalSpec, sit: Sit, folder: Path, tmp_path: Path
) -> None:
    scored = sit(ruler, None)
    assert wrong(scored) == []
    assert replayed(folder, tmp_path / "None.parquet", ruler) == []
    (grid,) = ruler.question_sets
    assert isinstance(grid, RulerGrid)
    assert Counter(q.task for q, _ in scored) == dict.fromkeys(RULER_TASKS, len(grid.lengths) * grid.samples)
    assert {q.scoring for q, _ in scored} == {"contains", "recall", "any"}


@pytest.mark.slow
def test_a_reader_of_the_end_finds_what_stands_there_in_rulers_tasks(
    ruler: EvalSpec, sit: Sit, folder: Path
) -> None:
    window, tokens = 1200, load_tokenizer(folder)
    scored = [(q, score) for q, score in sit(ruler, window) if q.kind not in LISTS]
    assert [(q.task, q.index, s) for q, s in scored] == [
        (q.task, q.index, seen_share(q, window, tokens)) for q, _ in scored
    ]
    assert {score for q, score in scored if q.task in NEEDLE_TASKS} > {0.0, 1.0}


def test_a_reader_of_the_question_alone_knows_nothing_of_a_list(ruler: EvalSpec, sit: Sit) -> None:
    (grid,) = ruler.question_sets
    assert isinstance(grid, RulerGrid)
    lists = replace(ruler, question_sets=(replace(grid, tasks=("cwe", "fwe")),))
    assert {(q.kind, score) for q, score in sit(lists, 24)} == {(kind, 0.0) for kind in LISTS}
