"""What needles are hidden in (a shipped text, a user's file, other needles), and filling a prompt with it."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from contextgraft.errors import InputError
from contextgraft.prompts.needle_format import Encode, circle

SHIPPED = {  # name: file of texts/
    "prose": "moby_dick_eval.txt",
    "code": "code.txt",
    "noise": "noise.txt",
    "moby_dick_eval": "moby_dick_eval.txt",
    "moby_dick_train": "moby_dick_train.txt",
}
SEEDS = 2**31
NEEDLES = "needles"  # made of needles with other keys: there is no text to read


@dataclass(frozen=True)
class Haystack:
    """A haystack under its name in results; `filling`, a key of FILLINGS, says how it fills a prompt."""

    name: str
    text: str
    filling: str = "text"


def read(name: str, base_dir: Path) -> str:
    """Text of a shipped haystack, or of a file relative to `base_dir`; InputError if there is neither."""
    if name in SHIPPED:
        return files("contextgraft.prompts").joinpath("texts", SHIPPED[name]).read_text(encoding="utf-8")
    path = base_dir / name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the haystack",
            path=path,
            expected=f"a UTF-8 text file, or one of {', '.join(SHIPPED)}",
            received=str(error),
        ) from None
    if not text.strip():
        raise InputError("the haystack is empty", path=path)
    return text


def find(name: str, base_dir: Path, plain: Callable[[], str]) -> Haystack:
    """A haystack by name; `plain` gives the text that fills the last gap of one made of needles."""
    if name == NEEDLES:
        return Haystack(name, plain(), NEEDLES)
    text = read(name, base_dir)
    label = name if name in SHIPPED else Path(name).name
    return Haystack(label, text, "lines" if name == "noise" else "text")


class Filling(NamedTuple):
    """`body` fills the prompt's nominal room, `spare` goes on after it.

    Needles may stand before the body's tokens that `stops` names, or anywhere where it is None.
    """

    body: list[int]
    spare: list[int]
    stops: list[int] | None

    def cut(self, at: float) -> int:
        """The place for a needle at a fraction of the body: the last stop that is not behind it."""
        place = round(at * len(self.body))
        if self.stops is None:
            return place
        return self.stops[bisect_right(self.stops, place) - 1]


@dataclass(frozen=True)
class Hay:
    """A haystack in the ids of one tokenizer: the whole text, and its lines if it fills by lines."""

    haystack: Haystack
    ids: list[int]
    lines: list[list[int]]

    @property
    def offsets(self) -> int:
        """How many different beginnings it has; one made of needles has as many as there are seeds."""
        if self.haystack.filling == NEEDLES:
            return SEEDS
        return len(self.lines) or len(self.ids)


def encoded(haystack: Haystack, encode: Encode) -> Hay:
    """A haystack in ids; each line begins with a space, as a sentence inside a text does."""
    lines = [f" {line}" for line in haystack.text.splitlines() if line.strip()]
    if haystack.filling != "lines":
        return Hay(haystack, encode(haystack.text), [])
    each = [encode(line) for line in lines]
    return Hay(haystack, [number for line in each for number in line], each)


def fill_text(hay: Hay, offset: int, nominal: int, spare: int, _: Iterator[list[int]]) -> Filling:
    """The text read in a circle from its token `offset` on; needles stand anywhere in it."""
    ids = circle(hay.ids, offset % len(hay.ids), nominal + spare)
    return Filling(ids[:nominal], ids[nominal:], None)


def fill_lines(hay: Hay, offset: int, nominal: int, spare: int, _: Iterator[list[int]]) -> Filling:
    """Lines repeated from line `offset` on; needles stand between them."""
    start = offset % len(hay.lines)
    lines = islice(cycle(hay.lines), start, None)
    return fill_sentences(lines, hay.ids, nominal, spare)


def fill_needles(hay: Hay, _: int, nominal: int, spare: int, needles: Iterator[list[int]]) -> Filling:
    """Other needles, one after the other, as many as fit whole; the haystack's text fills the rest."""
    return fill_sentences(needles, hay.ids, nominal, spare)


FILLINGS: dict[str, Callable[[Hay, int, int, int, Iterator[list[int]]], Filling]] = {
    "text": fill_text,
    "lines": fill_lines,
    NEEDLES: fill_needles,
}


def fill_sentences(sentences: Iterator[list[int]], rest: Sequence[int], nominal: int, spare: int) -> Filling:
    """As many whole sentences as fit `nominal` tokens, then `rest` in a circle. No sentence may be empty."""
    body: list[int] = []
    stops = [0]
    for sentence in sentences:
        if len(body) + len(sentence) > nominal:
            break
        body.extend(sentence)
        stops.append(len(body))
    tail = circle(rest, 0, nominal - len(body) + spare)
    gap = nominal - len(body)
    return Filling(body + tail[:gap], tail[gap:], stops)
