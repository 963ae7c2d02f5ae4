"""RULER's question-answering tasks, from a local data set in the form of SQuAD or HotpotQA."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from contextgraft.config.base import Frozen
from contextgraft.errors import InputError
from contextgraft.prompts.needle_format import Encode, circle
from contextgraft.prompts.ruler.word_lists import Body


class QaWording(Frozen):
    """Templates of questions about documents."""

    intro: str = Field(description="begins the prompt, before the documents")
    heading: str = Field(description="stands before each document, with {number}")
    question: str = Field(description="ends the prompt, with {question}")


@dataclass(frozen=True)
class Item:
    """A question, its answers, the documents that hold them, and those to add first (of the same article)."""

    question: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Questions and documents of one file, and the digest of the file."""

    documents: tuple[str, ...]
    items: tuple[Item, ...]
    digest: str


def squad(data: Any) -> tuple[list[str], list[Item]]:
    """Documents and answerable questions of SQuAD 1.1 or 2.0: one document a paragraph."""
    texts: dict[str, int] = {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            texts.setdefault(paragraph["context"], len(texts))
    items = []
    for article in data["data"]:
        together = {texts[paragraph["context"]]: None for paragraph in article["paragraphs"]}
        for paragraph in article["paragraphs"]:
            own = texts[paragraph["context"]]
            near = tuple(place for place in together if place != own)
            items += [
                Item(qa["question"], tuple(dict.fromkeys(a["text"] for a in qa["answers"])), (own,), near)
                for qa in paragraph["qas"]
                if qa["answers"] and not qa.get("is_impossible", False)
            ]
    return list(texts), items


def hotpot(data: Any) -> tuple[list[str], list[Item]]:
    """Documents and questions of HotpotQA's distractor setting: title and sentences are a document."""
    texts: dict[str, int] = {}
    items = []
    for qa in data:
        own = [f"{title}\n{''.join(sentences)}" for title, sentences in qa["context"]]
        places = tuple(dict.fromkeys(texts.setdefault(text, len(texts)) for text in own))
        items.append(Item(qa["question"], (qa["answer"],), places))
    return list(texts), items


READERS: dict[str, Callable[[Any], tuple[list[str], list[Item]]]] = {"qa_1": squad, "qa_2": hotpot}
FORMS = {"qa_1": "SQuAD's JSON", "qa_2": "HotpotQA's JSON"}


def read_dataset(task: str, path: Path) -> Dataset:
    """The data set of a task; InputError if the file cannot be read or has another form."""
    try:
        raw = path.read_bytes()
        documents, items = READERS[task](json.loads(raw))
    except OSError as error:
        raise InputError("cannot read the data set", path=path, received=str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        received = f"{type(error).__name__} {error}"
        raise InputError(
            "is no data set of this task", path=path, expected=FORMS[task], received=received
        ) from None
    if not items:
        raise InputError("holds no question that can be answered", path=path)
    return Dataset(tuple(documents), tuple(items), sha256(raw).hexdigest())


def about_documents(
    wording: QaWording,
    encode: Encode,
    dataset: Dataset,
    item: Item,
    *,
    length: int,
    room: int,
    rng: np.random.Generator,
) -> Body:
    """The needed documents and as many others as fit, in random order; the next one, cut, fills the room.

    Those of the same article come before all others, as in RULER. Raises InputError if the needed documents
    alone do not fit the room.
    """
    asked = encode(wording.question.replace("{question}", item.question))
    intro = encode(wording.intro)
    left = room - len(intro) - len(asked)
    chosen: list[list[int]] = []
    rest: list[int] = []
    for place in order(dataset, item, rng):
        text = encode(dataset.documents[place])
        needed = len(text) + len(encode(heading(wording, len(chosen) + 1)))
        if needed > left:
            rest = text
            break
        chosen.append(text)
        left -= needed
    if len(chosen) < len(item.needed):
        raise InputError(
            "the documents of a question do not fit the length",
            received=f"{length} tokens",
            remedy="ask for a longer length",
        )
    ids: list[int] = []
    for number, place in enumerate(rng.permutation(len(chosen)), 1):
        ids += encode(heading(wording, number)) + chosen[int(place)]
    return Body([*intro, *rest_of(rest, left), *ids, *asked], list(item.answers))


def order(dataset: Dataset, item: Item, rng: np.random.Generator) -> list[int]:
    """Places of documents: those the answer needs, then the same article's and the others, shuffled."""
    first = {*item.needed, *item.near}
    others = [place for place in range(len(dataset.documents)) if place not in first]
    near = [item.near[int(n)] for n in rng.permutation(len(item.near))]
    return [*item.needed, *near, *(others[int(n)] for n in rng.permutation(len(others)))]


def heading(wording: QaWording, number: int) -> str:
    """What stands before a document."""
    return wording.heading.replace("{number}", str(number))


def rest_of(document: list[int], room: int) -> list[int]:
    """The end of a document in so many tokens; nothing if there is none."""
    return circle(document, len(document) - room, room) if 0 < room <= len(document) else []
