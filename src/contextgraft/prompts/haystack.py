"""What needles are hidden in (a shipped text, a user's file, other needles), and filling a prompt with it."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from contextgraft.config.text_file import read_text_file
from contextgraft.errors import InputError
from contextgraft.prompts.tokens import Encode, cycle_tokens

SHIPPED_TEXTS = {  # name: file of texts/
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
    """A haystack under its name in results; `fill_method` is a key of FILL_METHODS."""

    name: str
    text: str
    fill_method: str = "text"


def read_haystack(name: str, base_dir: Path) -> str:
    """Text of a shipped haystack, or of a file relative to `base_dir`; InputError if there is neither."""
    if name in SHIPPED_TEXTS:
        file = files("contextgraft.prompts").joinpath("texts", SHIPPED_TEXTS[name])
        return file.read_text(encoding="utf-8")
    path = base_dir / name
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the haystack",
            path=path,
            expected=f"a UTF-8 text file, or one of {', '.join(SHIPPED_TEXTS)}",
            received=str(error),
        ) from None
    if not text.strip():
        raise InputError("the haystack is empty", path=path)
    return text


def find_haystack(name: str, base_dir: Path, plain_text: Callable[[], str]) -> Haystack:
    """A haystack by name; `plain_text` gives the text that fills the last gap of one made of needles."""
    if name == NEEDLES:
        return Haystack(name, plain_text(), NEEDLES)
    text = read_haystack(name, base_dir)
    label = name if name in SHIPPED_TEXTS else Path(name).name
    return Haystack(label, text, "lines" if name == "noise" else "text")


class FillerText(NamedTuple):
    """Filler of one prompt: `body` has the nominal number of tokens, `spare` continues it.

    Needles may be inserted before the tokens of the body whose indices `boundaries` lists, or before any
    token where it is None.
    """

    body: list[int]
    spare: list[int]
    boundaries: list[int] | None

    def insertion_index(self, fraction: float) -> int:
        """Index for a needle at a fraction of the body: the last boundary that is not behind it."""
        index = round(fraction * len(self.body))
        if self.boundaries is None:
            return index
        return self.boundaries[bisect_right(self.boundaries, index) - 1]


@dataclass(frozen=True)
class TokenizedHaystack:
    """A haystack in the ids of one tokenizer: the whole text, and its lines if it fills by lines."""

    haystack: Haystack
    ids: list[int]
    lines: list[list[int]]

    @property
    def offset_count(self) -> int:
        """Number of different offsets to start from; a haystack made of needles has one for each seed."""
        if self.haystack.fill_method == NEEDLES:
            return SEEDS
        return len(self.lines) or len(self.ids)


def tokenize_haystack(haystack: Haystack, encode: Encode) -> TokenizedHaystack:
    """A haystack in ids; each line begins with a space, as a sentence inside a text does."""
    if haystack.fill_method != "lines":
        return TokenizedHaystack(haystack, encode(haystack.text), [])
    lines = [encode(f" {line}") for line in haystack.text.splitlines() if line.strip()]
    return TokenizedHaystack(haystack, [number for line in lines for number in line], lines)


def fill_with_text(
    haystack: TokenizedHaystack, offset: int, nominal: int, spare: int, _: Iterator[list[int]]
) -> FillerText:
    """The text from token `offset` on, repeated at its end; needles may be anywhere in it."""
    ids = cycle_tokens(haystack.ids, offset % len(haystack.ids), nominal + spare)
    return FillerText(ids[:nominal], ids[nominal:], None)


def fill_with_lines(
    haystack: TokenizedHaystack, offset: int, nominal: int, spare: int, _: Iterator[list[int]]
) -> FillerText:
    """Lines from line `offset` on, repeated; needles are placed between them."""
    start = offset % len(haystack.lines)
    lines = islice(cycle(haystack.lines), start, None)
    return fill_with_sentences(lines, haystack.ids, nominal, spare)


def fill_with_needles(
    haystack: TokenizedHaystack, _: int, nominal: int, spare: int, needles: Iterator[list[int]]
) -> FillerText:
    """As many whole other needles as fit; the haystack's text fills the rest."""
    return fill_with_sentences(needles, haystack.ids, nominal, spare)


FillMethod = Callable[[TokenizedHaystack, int, int, int, Iterator[list[int]]], FillerText]
FILL_METHODS: dict[str, FillMethod] = {
    "text": fill_with_text,
    "lines": fill_with_lines,
    NEEDLES: fill_with_needles,
}


def fill_with_sentences(
    sentences: Iterator[list[int]], rest: Sequence[int], nominal: int, spare: int
) -> FillerText:
    """As many whole sentences as fit `nominal` tokens, then `rest`, repeated. No sentence may be empty."""
    body: list[int] = []
    boundaries = [0]
    for sentence in sentences:
        if len(body) + len(sentence) > nominal:
            break
        body.extend(sentence)
        boundaries.append(len(body))
    gap = nominal - len(body)
    tail = cycle_tokens(rest, 0, gap + spare)
    return FillerText(body + tail[:gap], tail[gap:], boundaries)
