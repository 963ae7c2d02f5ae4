"""Texts as token ids to be predicted: windows of exact length, or the lines of a skill."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.requests import ids_digest
from contextgraft.evaluation.suites.spec import Skill
from contextgraft.prompts.haystack import read_haystack

DEFAULT_TEXT = "moby_dick_eval"


@dataclass(frozen=True)
class Text:
    """A text by name; `digest` is the sha256 of its UTF-8."""

    name: str
    digest: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """Token ids, the first of them a begin token where the tokenizer adds one; `recipe` rebuilds them."""

    ids: tuple[int, ...]
    document: int
    recipe: str

    @property
    def digest(self) -> str:
        """Digest of the ids."""
        return ids_digest(self.ids)


class Prompts(Protocol):
    """Where prompts come from."""

    @property
    def name(self) -> str:
        """What the rows call it."""

    @property
    def seed(self) -> int:
        """What was drawn by it."""

    def key(self) -> dict[str, Any]:
        """JSON of all that decides the prompts."""

    def count_all(self) -> int:
        """How many there are."""

    def prompts(self, tokens: Tokens) -> list[Prompt]:
        """All of them; InputError if they cannot be made."""

    def again(self, row: Mapping[str, Any]) -> "Prompts":
        """The one prompt of a row of the table, from its recipe; InputError if it is of another text."""


@dataclass(frozen=True)
class Single:
    """One prompt of a source, as `make` makes it of its recipe."""

    name: str
    seed: int
    recipe: str
    make: Callable[[Tokens], Prompt]

    def key(self) -> dict[str, Any]:
        """The recipe."""
        return {"recipe": self.recipe}

    def count_all(self) -> int:
        """One."""
        return 1

    def prompts(self, tokens: Tokens) -> list[Prompt]:
        """The prompt."""
        return [self.make(tokens)]

    def again(self, row: Mapping[str, Any]) -> "Single":
        """Itself, if it is the row's."""
        if row["recipe"] != self.recipe:
            raise InputError(
                f"{self.name} is not what the row was measured on",
                expected=row["recipe"],
                received=self.recipe,
            )
        return self


@dataclass(frozen=True)
class Windows:
    """`count` windows of a text, each of exactly `length` tokens with its begin token.

    The text's possible places are cut into `count` equal parts, and a window begins at a random place of
    each: windows are spread over the whole text, and overlap only where it is short.
    """

    text: Text
    length: int
    count: int
    seed: int

    @property
    def name(self) -> str:
        """The text's name."""
        return self.text.name

    def key(self) -> dict[str, Any]:
        """Text, length, number and seed."""
        return {
            "text": [self.text.name, self.text.digest],
            "length": self.length,
            "count": self.count,
            "seed": self.seed,
        }

    def count_all(self) -> int:
        """How many windows."""
        return self.count

    def prompts(self, tokens: Tokens) -> list[Prompt]:
        """The windows; InputError if the text is too short or has words that the tokenizer lacks."""
        before, _ = tokens.around(chat=False)
        ids = tokens.encode(self.text.content)
        taken = self.length - len(before)
        self._check(ids, taken, tokens)
        return [
            self._window(ids, before, start, taken, document)
            for document, start in enumerate(self._starts(len(ids) - taken + 1))
        ]

    def again(self, row: Mapping[str, Any]) -> Single:
        """The window of a row; InputError if it is of another text."""
        recipe = own_recipe(self.name, self.text.digest, row)

        def make(tokens: Tokens) -> Prompt:
            before, _ = tokens.around(chat=False)
            ids = tokens.encode(self.text.content)
            return self._window(ids, before, recipe["offset"], recipe["tokens"], row["document"])

        return Single(self.name, row["seed"], row["recipe"], make)

    def _window(
        self, ids: Sequence[int], before: Sequence[int], start: int, taken: int, document: int
    ) -> Prompt:
        recipe = {"text": self.text.name, "sha256": self.text.digest, "offset": start, "tokens": taken}
        return Prompt((*before, *ids[start : start + taken]), document, as_json(recipe))

    def _starts(self, places: int) -> list[int]:
        shares = np.random.default_rng([self.seed, self.length, self.count]).random(self.count)
        return [int((part + share) * places / self.count) for part, share in enumerate(shares)]

    def _check(self, ids: Sequence[int], taken: int, tokens: Tokens) -> None:
        if taken < 2:
            raise InputError("a window has too few tokens", expected="3 or more", received=self.length)
        if len(ids) < taken + self.count - 1:
            raise InputError(
                f"the text {self.text.name} is too short for {self.count} windows",
                expected=f"{taken + self.count - 1} tokens or more",
                received=len(ids),
                remedy="give a longer --text, or ask for shorter or fewer windows",
            )
        if tokens.tokenizer.unk_token_id is not None and tokens.tokenizer.unk_token_id in ids:
            raise InputError(
                f"the text {self.text.name} has words that the model's tokenizer lacks",
                path=tokens.path,
                remedy="give a --text written for this model",
            )


@dataclass(frozen=True)
class Lines:
    """Lines of a skill, prompt and answer as one text; `count` drawn by seed, all of them if None."""

    skill: Skill
    count: int | None
    seed: int

    @property
    def name(self) -> str:
        """The skill's name."""
        return self.skill.name

    def key(self) -> dict[str, Any]:
        """Skill, number and seed."""
        return {"skill": [self.skill.name, self.skill.digest], "count": self.count, "seed": self.seed}

    def count_all(self) -> int:
        """How many lines."""
        return len(self.skill.lines) if self.count is None else self.count

    def prompts(self, tokens: Tokens) -> list[Prompt]:
        """The lines in the file's order; InputError if there are fewer than asked for."""
        if self.count_all() > len(self.skill.lines):
            raise InputError(
                f"the skill {self.name} has fewer lines than prompts asked for",
                expected=self.count,
                received=len(self.skill.lines),
            )
        drawn = np.random.default_rng(self.seed).permutation(len(self.skill.lines))[: self.count_all()]
        before, _ = tokens.around(chat=False)
        return [self._prompt(int(line), before, tokens) for line in sorted(drawn)]

    def again(self, row: Mapping[str, Any]) -> Single:
        """The line of a row; InputError if it is of another file."""
        line = own_recipe(self.name, self.skill.digest, row)["line"]
        return Single(
            self.name,
            row["seed"],
            row["recipe"],
            lambda tokens: self._prompt(line, tokens.around(chat=False)[0], tokens),
        )

    def _prompt(self, line: int, before: Sequence[int], tokens: Tokens) -> Prompt:
        prompt, answer = self.skill.lines[line]
        ids = (*before, *tokens.encode(prompt), *tokens.encode(answer))
        recipe = {"file": self.skill.file, "line": line, "sha256": self.skill.digest}
        return Prompt(ids, line, as_json(recipe))


def decoded(source: Prompts, tokens: Tokens) -> str:
    """All prompts of a source as text, special tokens too."""
    return "\n".join(
        tokens.tokenizer.decode(prompt.ids, skip_special_tokens=False) for prompt in source.prompts(tokens)
    )


def own_recipe(name: str, digest: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a row; InputError if it is not of the text or file with that name and sha256."""
    recipe: dict[str, Any] = json.loads(row["recipe"])
    if (row["task"], recipe["sha256"]) != (name, digest):
        raise InputError(
            "the text is not what the row was measured on",
            expected=f"{row['task']}, sha256 {recipe['sha256']}",
            received=f"{name}, sha256 {digest}",
            remedy="give its file with --text",
        )
    return recipe


def largest_id(prompts: Sequence[Prompt]) -> int:
    """The largest token id of all prompts."""
    return max(max(prompt.ids) for prompt in prompts)


def read_text(name: str) -> Text:
    """A shipped text by name, or a file from the working directory; InputError if there is neither."""
    content = read_haystack(name, Path())
    return Text(Path(name).stem, sha256(content.encode()).hexdigest(), content)


def as_json(recipe: dict[str, Any]) -> str:
    """A recipe as one line of JSON, keys sorted."""
    return json.dumps(recipe, sort_keys=True, ensure_ascii=False)
