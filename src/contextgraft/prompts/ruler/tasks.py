"""RULER's thirteen tasks: their parameters, and the wording they are asked in.

Source: C.-P. Hsieh et al., RULER (2024), https://arxiv.org/abs/2404.06654, table 5 and appendix B, and the
configuration of its repository. The wording is our own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load
from contextgraft.errors import InputError
from contextgraft.prompts import haystack
from contextgraft.prompts.generators import GENERATORS
from contextgraft.prompts.haystack import NEEDLES, Haystack
from contextgraft.prompts.ruler.qa import QaWording
from contextgraft.prompts.ruler.word_lists import ListWording
from contextgraft.prompts.sampling import Source
from contextgraft.prompts.templates import SLOTS, Wording, check_slots

SHIPPED = Path(__file__).parent / "ruler.yaml"
PLACES = 40  # RULER's depths: as many from the beginning to the end, equally far apart


class Pools(Frozen):
    """What each of RULER's types is drawn from: a list of words or the name of a generator."""

    words: tuple[str, ...] | str = Field(default="pair", description="keys of needles")
    numbers: tuple[str, ...] | str = Field(default="number", description="values of needles")
    uuids: tuple[str, ...] | str = Field(default="uuid", description="keys and values of the hardest needles")
    names: tuple[str, ...] | str = Field(default="letters", description="names of variables")
    digits: tuple[str, ...] | str = Field(default="digits", description="values of variables")
    listed: tuple[str, ...] | str = Field(default="word", description="words of common words")
    coded: tuple[str, ...] | str = Field(
        default="word", description="words of frequent words, of six letters"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Generators are known, words of a list distinct."""
        for name, pool in self:
            if isinstance(pool, str) and pool not in GENERATORS:
                raise ValueError(
                    f"{name}: unknown generator {pool!r}; expected one of {', '.join(GENERATORS)}"
                )
            if not isinstance(pool, str) and len(set(pool)) < len(pool):
                raise ValueError(f"{name} must be distinct")
        return self


class RulerWording(Frozen):
    """How RULER's tasks are worded, so that any vocabulary can be asked them."""

    name: str = Field(description="label of the wording in recipes")
    noise: tuple[str, ...] = Field(min_length=1, description="short sentences that are repeated")
    prose: str = Field(default="prose", description="a shipped text by name, or a path relative to this file")
    pools: Pools = Field(default=Pools(), description="what keys, values and words are drawn from")
    single: Wording = Field(description="one needle is asked for")
    multi_value: Wording = Field(description="one key has several values")
    multi_query: Wording = Field(description="several keys are asked for")
    chain: Wording = Field(description="names are assigned to each other")
    common_words: ListWording = Field(description="the ten words that stand most often in a list")
    frequent_words: ListWording = Field(description="the three words that stand most often in a text")
    qa: QaWording = Field(description="questions about documents")

    @model_validator(mode="after")
    def check(self) -> Self:
        """Every template has its slots."""
        for kind in SLOTS:
            check_slots(kind, getattr(self, kind))
        return self


class NeedleTask(NamedTuple):
    """Parameters of a retrieval or tracing task; `keys` and `values` are fields of Pools."""

    kind: str
    haystack: str
    keys: str
    values: str
    asked: int
    distractors: int
    budget: int


NEEDLE_TASKS = {
    "niah_single_1": NeedleTask("single", "noise", "words", "numbers", 1, 0, 128),
    "niah_single_2": NeedleTask("single", "prose", "words", "numbers", 1, 0, 128),
    "niah_single_3": NeedleTask("single", "prose", "words", "uuids", 1, 0, 128),
    "niah_multikey_1": NeedleTask("single", "prose", "words", "numbers", 1, 3, 128),
    "niah_multikey_2": NeedleTask("single", NEEDLES, "words", "numbers", 1, 0, 128),
    "niah_multikey_3": NeedleTask("single", NEEDLES, "uuids", "uuids", 1, 0, 128),
    "niah_multivalue": NeedleTask("multi_value", "prose", "words", "numbers", 4, 0, 128),
    "niah_multiquery": NeedleTask("multi_query", "prose", "words", "numbers", 4, 0, 128),
    "vt": NeedleTask("chain", "noise", "names", "digits", 5, 0, 30),  # one chain of four hops
}
LIST_TASKS = {"cwe": ("common_words", "listed", 120), "fwe": ("frequent_words", "coded", 50)}
QA_TASKS = {"qa_1": 32, "qa_2": 32}


def load_wording(path: Path | None) -> tuple[RulerWording, dict[str, Haystack]]:
    """The wording of a YAML file or the shipped one, and its haystacks by RULER's names."""
    path = path or SHIPPED
    wording = load(RulerWording, path)
    noise = "\n".join(wording.noise)
    prose = haystack.read(wording.prose, path.parent)
    return wording, {
        "noise": Haystack("noise", noise, "lines"),
        "prose": Haystack("prose", prose),
        NEEDLES: Haystack(NEEDLES, noise, NEEDLES),
    }


def source_of(task: str, wording: RulerWording, haystacks: dict[str, Haystack]) -> Source:
    """What a needle task draws from."""
    spec = NEEDLE_TASKS[task]
    return Source(
        f"ruler {task}",
        getattr(wording.pools, spec.keys),
        getattr(wording.pools, spec.values),
        haystack=haystacks[spec.haystack].text,
        places=forty,
    )


def forty(rng: np.random.Generator, count: int) -> list[float]:
    """Different ones of RULER's forty depths."""
    return [int(place) / (PLACES - 1) for place in rng.choice(PLACES, count, replace=False)]


def check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    """InputError if a task is none of RULER's or is named twice."""
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise InputError("no such task of RULER", expected=f"one of {', '.join(known)}", received=unknown[0])
    if len(set(tasks)) < len(tasks):
        raise InputError("a task of RULER is named twice", received=", ".join(tasks))
