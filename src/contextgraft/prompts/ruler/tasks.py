"""The thirteen RULER tasks: their parameters and their wording.

Source: C.-P. Hsieh et al., RULER (2024), https://arxiv.org/abs/2404.06654, table 5 and appendix B, and the
configuration of its repository. The wording is our own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load
from contextgraft.errors import InputError, did_you_mean
from contextgraft.prompts.generators import GENERATORS, Pool, word_list
from contextgraft.prompts.haystack import NEEDLES, Haystack, read_haystack
from contextgraft.prompts.ruler.qa import QaWording
from contextgraft.prompts.ruler.word_lists import ListWording
from contextgraft.prompts.sampling import NeedlePools, uniform_positions
from contextgraft.prompts.templates import Wording, check_slots

if TYPE_CHECKING:
    import numpy as np

SHIPPED = Path(__file__).parent / "ruler.yaml"
WORD_LISTS = ("words", "nouns", "adjectives")
BETWEEN_LINES = (
    "noise",
    NEEDLES,
)  # haystacks of lines: needles are lines of their own, anywhere between them
DEPTHS = 40  # RULER places needles at this many depths, equally spaced from beginning to end


class RulerPools(Frozen):
    """What each type of RULER is sampled from: words, or the name of a generator or of a shipped list."""

    words: tuple[str, ...] | str = Field(default="english_pair", description="keys of needles")
    numbers: tuple[str, ...] | str = Field(default="number", description="values of needles")
    uuids: tuple[str, ...] | str = Field(default="uuid", description="keys and values of the hardest needles")
    names: tuple[str, ...] | str = Field(default="letters", description="names of variables")
    digits: tuple[str, ...] | str = Field(default="digits", description="values of variables")
    listed: tuple[str, ...] | str = Field(default="words", description="words of common words")
    coded: tuple[str, ...] | str = Field(
        default="coded", description="words of frequent words, of six letters"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Generators are known, words of a list distinct."""
        for name, pool in self:
            known = (*GENERATORS, *WORD_LISTS)
            if isinstance(pool, str) and pool not in known:
                raise ValueError(f"{name}: unknown generator {pool!r}; expected one of {', '.join(known)}")
            if not isinstance(pool, str) and len(set(pool)) < len(pool):
                raise ValueError(f"{name} must be distinct")
        return self

    def drawn_from(self, name: str) -> Pool:
        """The pool of a type; a shipped list as its words."""
        pool: Pool = getattr(self, name)
        return word_list(pool) if isinstance(pool, str) and pool in WORD_LISTS else pool

    def described(self) -> dict[str, Pool]:
        """The pools as JSON, for digests."""
        return {name: self.drawn_from(name) for name in type(self).model_fields}


class RulerWording(Frozen):
    """How the RULER tasks are worded; a model with a small vocabulary needs a wording of its own."""

    name: str = Field(description="label of the wording in results")
    noise: tuple[str, ...] = Field(min_length=1, description="short sentences that are repeated")
    prose: str = Field(default="prose", description="a shipped text by name, or a path relative to this file")
    pools: RulerPools = Field(default=RulerPools(), description="pools of keys, values and words")
    single: Wording = Field(description="wording of questions about one needle")
    multi_value: Wording = Field(description="wording where one key has several values")
    multi_query: Wording = Field(description="wording where one question is about several keys")
    chain: Wording = Field(description="wording of names assigned to each other")
    common_words: ListWording = Field(description="the ten most frequent words of a list")
    frequent_words: ListWording = Field(description="the three most frequent words of a text")
    qa: QaWording = Field(description="questions about documents")

    @model_validator(mode="after")
    def check(self) -> Self:
        """Every template has its slots."""
        for kind in dict.fromkeys(task.kind for task in NEEDLE_TASKS.values()):
            check_slots(kind, getattr(self, kind))
        return self


class NeedleTask(NamedTuple):
    """Parameters of a retrieval or tracing task; `keys` and `values` are fields of RulerPools."""

    kind: str
    haystack: str
    keys: str
    values: str
    needles: int
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
    noise = " ".join(wording.noise)
    prose = read_haystack(wording.prose, path.parent)
    return wording, {
        "noise": Haystack("noise", noise, "lines", separator="\n"),
        "prose": Haystack("prose", prose),
        NEEDLES: Haystack(NEEDLES, noise, NEEDLES),
    }


def needle_pools(task: str, wording: RulerWording, haystacks: Mapping[str, Haystack]) -> NeedlePools:
    """What the needles of a task are sampled from."""
    spec = NEEDLE_TASKS[task]
    return NeedlePools(
        f"ruler {task}",
        wording.pools.drawn_from(spec.keys),
        wording.pools.drawn_from(spec.values),
        haystack=haystacks[spec.haystack].text,
        positions=uniform_positions if spec.haystack in BETWEEN_LINES else ruler_positions,
    )


def needle_wording(task: str, wording: RulerWording) -> Wording:
    """The templates of a needle task; between lines, a needle is a line of its own."""
    spec = NEEDLE_TASKS[task]
    own: Wording = getattr(wording, spec.kind)
    if spec.haystack not in BETWEEN_LINES:
        return own
    lines = {"needle": own.needle, "link": own.link}
    return own.model_copy(update={name: f"\n{line.lstrip()}" for name, line in lines.items() if line})


def ruler_positions(rng: "np.random.Generator", count: int) -> list[float]:
    """Different ones of the forty depths, as fractions of the text."""
    return [int(depth) / (DEPTHS - 1) for depth in rng.choice(DEPTHS, count, replace=False)]


def check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    """InputError if a task is unknown or given twice."""
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise InputError(
            "unknown RULER task", expected=f"one of {', '.join(known)}", received=unknown[0],
            remedy=did_you_mean(unknown[0], known),
        )  # fmt: skip
    if len(set(tasks)) < len(tasks):
        raise InputError("a RULER task is given twice", received=", ".join(tasks))
