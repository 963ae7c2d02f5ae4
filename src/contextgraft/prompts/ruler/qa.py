"""The question-answering tasks of RULER, from a local data set in the format of SQuAD or HotpotQA."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from contextgraft.config.base import Frozen
from contextgraft.errors import InputError, raise_read_error
from contextgraft.prompts.ruler.word_lists import TaskBody
from contextgraft.prompts.tokens import Encode, cycle_tokens, prompt_ending

if TYPE_CHECKING:
    import numpy as np


class QaWording(Frozen):
    """Templates of questions about documents."""

    intro: str = Field(description="begins the prompt, before the documents")
    heading: str = Field(description="precedes each document, with {number}")
    question: str = Field(description="ends the prompt, with {question}")
    lead: str = Field(
        default="",
        description="begins the answer, behind the question; in a chat it stands in the assistant's turn",
    )


@dataclass(frozen=True)
class QaQuestion:
    """A question, its answers, the documents that hold them, and those to add first (of the same article)."""

    question: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class QaDataset:
    """Questions and documents of one file, and the digest of the file."""

    documents: tuple[str, ...]
    items: tuple[QaQuestion, ...]
    digest: str


def squad(data: Any) -> tuple[list[str], list[QaQuestion]]:
    """Documents and answerable questions of SQuAD 1.1 or 2.0: each paragraph is a document."""
    texts: dict[str, int] = {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            texts.setdefault(paragraph["context"], len(texts))
    items = []
    for article in data["data"]:
        own_article = {texts[paragraph["context"]]: None for paragraph in article["paragraphs"]}
        for paragraph in article["paragraphs"]:
            own = texts[paragraph["context"]]
            near = tuple(index for index in own_article if index != own)
            for qa in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in qa["answers"]))
                if answers and not qa.get("is_impossible", False):
                    items.append(QaQuestion(qa["question"], answers, (own,), near))
    return list(texts), items


def hotpot(data: Any) -> tuple[list[str], list[QaQuestion]]:
    """Documents and questions of HotpotQA's distractor setting: a title with its sentences is a document."""
    texts: dict[str, int] = {}
    items = []
    for qa in data:
        own = [f"{title}\n{''.join(sentences)}" for title, sentences in qa["context"]]
        indices = tuple(dict.fromkeys(texts.setdefault(text, len(texts)) for text in own))
        items.append(QaQuestion(qa["question"], (qa["answer"],), indices))
    return list(texts), items


READERS: dict[str, Callable[[Any], tuple[list[str], list[QaQuestion]]]] = {"qa_1": squad, "qa_2": hotpot}
FORMATS = {"qa_1": "a JSON file in the format of SQuAD", "qa_2": "a JSON file in the format of HotpotQA"}


def read_dataset(task: str, path: Path) -> QaDataset:
    """The data set of a task; InputError if the file cannot be read or has another format."""
    try:
        raw = path.read_bytes()
        documents, items = READERS[task](json.loads(raw))
    except OSError as error:
        raise_read_error(error, path)
        raise InputError("cannot read the data set", path=path, received=str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        received = f"{type(error).__name__} {error}"
        raise InputError(
            f"not a data set for {task}", path=path, expected=FORMATS[task], received=received
        ) from None
    if not items:
        raise InputError("contains no answerable question", path=path)
    return QaDataset(tuple(documents), tuple(items), sha256(raw).hexdigest())


def about_documents(
    wording: QaWording,
    encode: Encode,
    dataset: QaDataset,
    question: QaQuestion,
    *,
    length: int,
    max_tokens: int,
    rng: "np.random.Generator",
    suffix_ids: Sequence[int] = (),
) -> TaskBody:
    """The needed documents and as many others as fit `max_tokens`, in random order.

    The end of the next document fills the rest. Documents of the same article are added before all others, as
    in RULER. Raises InputError if the needed documents alone do not fit.
    """
    asked = wording.question.replace("{question}", question.question)
    ending = prompt_ending(encode, asked, wording.lead, suffix_ids)
    intro = encode(wording.intro)
    left = max_tokens - len(intro) - len(ending)
    chosen: list[list[int]] = []
    rest: list[int] = []
    for index in document_order(dataset, question, rng):
        text = encode(dataset.documents[index])
        needed = len(text) + len(encode(heading(wording, len(chosen) + 1)))
        if needed > left:
            rest = text
            break
        chosen.append(text)
        left -= needed
    if len(chosen) < len(question.needed):
        raise InputError(
            "the documents of a question do not fit the length",
            received=f"{length} tokens",
            remedy="choose a longer length",
        )
    # the end of the document that did not fit fills what is left, unless it is shorter
    ids = cycle_tokens(rest, len(rest) - left, left) if 0 < left <= len(rest) else []
    for number, index in enumerate(rng.permutation(len(chosen)), 1):
        ids += encode(heading(wording, number)) + chosen[int(index)]
    return TaskBody([*intro, *ids, *ending], list(question.answers))


def document_order(dataset: QaDataset, question: QaQuestion, rng: "np.random.Generator") -> list[int]:
    """Indices of documents: the needed ones, then those of the same article, then the others, shuffled."""
    first = {*question.needed, *question.near}
    others = [index for index in range(len(dataset.documents)) if index not in first]
    near = [question.near[int(n)] for n in rng.permutation(len(question.near))]
    return [*question.needed, *near, *(others[int(n)] for n in rng.permutation(len(others)))]


def heading(wording: QaWording, number: int) -> str:
    """The text before document `number`."""
    return wording.heading.replace("{number}", str(number))
