"""What needles are hidden in (a shipped text, a user's file, other needles), and filling a prompt with it."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from contextgraft.config.text_file import read_text_file
from contextgraft.errors import InputError, did_you_mean
from contextgraft.prompts.tokens import Encode, cycle_tokens

SHIPPED_TEXTS = {  # name: file of texts/
    "prose": "moby_dick_eval.txt",
    "speeches": "speeches.txt",
    "code": "code.txt",
    "noise": "noise.txt",
    "moby_dick_eval": "moby_dick_eval.txt",
    "moby_dick_train": "moby_dick_train.txt",
}
SEEDS = 2**31
TEXTS = "*.txt"  # of a folder, which is one text: its files in the order of their names
SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\bCapt)[.!?]+[\"'\u201d\u2019)\]\u00bb]*(?=\s|$)"
    r"|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*"
)
LINE_END = re.compile(r"$", re.MULTILINE)
SPARSE = 1000  # characters: a text with fewer sentence ends than one in so many is cut at line ends
PLACEMENT = "sentence ends"  # where needles stand in a text: belongs to the digest of its prompts
NEEDLES = "needles"  # made of needles with other keys: there is no text to read


@dataclass(frozen=True)
class Haystack:
    """A haystack under its name in results; `fill_method` is a key of FILL_METHODS.

    Of one that fills by lines, `separator` precedes each line.
    """

    name: str
    text: str
    fill_method: str = "text"
    separator: str = " "

    @property
    def placement(self) -> dict[str, str]:
        """Where needles stand, for digests of prompts; nothing where they always stood between sentences."""
        return {"placement": PLACEMENT} if self.fill_method == "text" else {}


def read_haystack(name: str, base_dir: Path) -> str:
    """Text of a shipped haystack, or of a file or folder relative to `base_dir`; InputError for neither.

    A folder is one text, all of its .txt files.
    """
    if name in SHIPPED_TEXTS:
        file = files("contextgraft.prompts").joinpath("texts", SHIPPED_TEXTS[name])
        return file.read_text(encoding="utf-8")
    path = base_dir / name
    try:
        files_of_folder = sorted(path.glob(TEXTS)) if path.is_dir() else []
        text = "\n\n".join(map(read_text_file, files_of_folder or [path]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the haystack",
            path=path,
            expected=f"a UTF-8 text file, a folder of {TEXTS}, or one of {', '.join(SHIPPED_TEXTS)}",
            received=str(error),
            remedy=did_you_mean(name, SHIPPED_TEXTS),
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
    """A haystack in the ids of one tokenizer: the whole text, and its lines if it fills by lines.

    `stops` are the indices of the tokens before which a sentence ends, ascending from 0; without any, needles
    stand before any token.
    """

    haystack: Haystack
    ids: list[int]
    lines: list[list[int]]
    stops: Sequence[int] = ()

    @property
    def offset_count(self) -> int:
        """Number of different offsets to start from; a haystack made of needles has one for each seed."""
        if self.haystack.fill_method == NEEDLES:
            return SEEDS
        return len(self.lines) or len(self.ids)


TokenEnds = Callable[[str], Sequence[int] | None]


def tokenize_haystack(
    haystack: Haystack, encode: Encode, token_ends: TokenEnds | None = None
) -> TokenizedHaystack:
    """A haystack in ids; each line begins with a space, as a sentence inside a text does.

    `token_ends` gives the index in the text behind each token of it, or None if the tokenizer does not know.
    """
    if haystack.fill_method != "lines":
        ids = encode(haystack.text)
        ends = token_ends(haystack.text) if token_ends and haystack.fill_method == "text" else None
        return TokenizedHaystack(haystack, ids, [], sentence_stops(haystack.text, ends or (), len(ids)))
    texts = [line for line in haystack.text.splitlines() if line.strip()]
    lines = [encode(f"{haystack.separator}{line}") for line in texts]
    return TokenizedHaystack(haystack, [number for line in lines for number in line], lines)


def sentence_stops(text: str, ends: Sequence[int], count: int) -> list[int]:
    """Indices of the tokens before which a sentence ends, or a line where there are hardly sentences.

    `ends` has the index in the text behind each of the `count` tokens; no stops without them. 0 is a stop.
    """
    if not ends or len(ends) != count:
        return []
    matches = [match.end() for match in SENTENCE_END.finditer(text)]
    if len(matches) * SPARSE < len(text):
        matches = [match.end() for match in LINE_END.finditer(text)]
    stops = {0}
    for position in matches:
        token = bisect_left(ends, position)
        if token < count and not text[position : ends[token]].strip():
            stops.add((token + 1) % count)
    return sorted(stops) if len(stops) > 1 else []


def fill_with_text(
    haystack: TokenizedHaystack, offset: int, nominal: int, spare: int, _: Iterator[list[int]]
) -> FillerText:
    """The text from the first sentence behind token `offset` on, repeated at its end.

    Needles stand at sentence ends; in a text without known ones, anywhere.
    """
    stops, count = haystack.stops, len(haystack.ids)
    start = offset % count
    if not stops:
        ids = cycle_tokens(haystack.ids, start, nominal + spare)
        return FillerText(ids[:nominal], ids[nominal:], None)
    later = bisect_left(stops, start)
    begin = stops[later] if later < len(stops) else 0
    ids = cycle_tokens(haystack.ids, begin, nominal + spare)
    first = sorted((stop - begin) % count for stop in stops)
    rounds = range(0, nominal + 1, count)
    boundaries = [before + stop for before in rounds for stop in first if before + stop <= nominal]
    return FillerText(ids[:nominal], ids[nominal:], boundaries)


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
