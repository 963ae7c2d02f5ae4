"""Needles in a haystack: a grid of lengths and depths with prompts of an exact number of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.digest import json_digest
from contextgraft.config.evaluation import Chat
from contextgraft.errors import InputError, did_you_mean
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import (
    Question,
    check_answer,
    checked_encode,
    encoded_haystack,
    json_line,
)
from contextgraft.evaluation.suites.base import PromptSpec, QuestionSet, SampleRow
from contextgraft.prompts.generators import GENERATORS
from contextgraft.prompts.haystack import NEEDLES, Haystack, TokenizedHaystack, find_haystack, read_haystack
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SINGLE, check_needle_kinds
from contextgraft.prompts.needle_prompt import (
    NeedlePrompt,
    PromptTemplate,
    build_context,
    build_prompt,
    draw_prompt_spec,
)
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.seeded import seeded_generator

DEFAULT_FORMAT = Path(__file__).parent / "needle_default.yaml"
EXTRA_TOKENS = 32  # that a model may generate around an answer which need only be contained


@dataclass(frozen=True)
class NeedleGrid(QuestionSet):
    """Lengths in tokens (prompt and answer) x depths in percent, `samples` prompts per cell.

    One question asks for `count` needles; kinds other than `single` have no depths. `values` is a generator
    to use instead of the format's values.
    """

    format: NeedleFormat
    haystack: Haystack
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    distractors: int
    kind: str = SINGLE
    count: int = 1
    values: str | None = None
    chat: Chat | None = None
    suite: ClassVar[str] = "needle"

    @property
    def shared(self) -> bool:
        """Whether one text holds the needles of all depths, each a distractor of the others."""
        return not NEEDLE_KINDS[self.kind].per_depth or self.distractors >= len(self.depths) - 1

    @property
    def pools(self) -> NeedlePools:
        """What keys and values are drawn from."""
        return self.format.pools(self.values, self.haystack.text, self.kind)

    @property
    def template(self) -> Chat:
        """Whether the model's chat template is used: as given, else as the format says."""
        return self.format.chat if self.chat is None else self.chat

    def digest(self) -> str:
        """Digest of all that decides how a prompt specification becomes a prompt."""
        return json_digest(
            {
                "wording": self.format.wording(self.kind).described,
                "keys": self.pools.keys,
                "values": self.pools.values,
                "words": self.pools.value_words,
                "chat": self.template,
                "haystack": [self.haystack.name, self.haystack.text],
                **self.haystack.placement,
            }
        )

    @override
    def content(self) -> dict[str, Any]:
        """Format, haystack and size of the grid."""
        return {
            "format": self.format.model_dump(mode="json"),
            "prompts": self.digest(),
            "lengths": self.lengths,
            "depths": self.depths,
            "samples": self.samples,
            "distractors": self.distractors,
            "kind": self.kind,
            "count": self.count,
        }

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """The prompts of the grid, `samples` for each length and depth.

        A text depends on its own seed, length and index only (and on the depths, if one text holds the
        needles of all), so a larger grid contains the same prompts. Raises InputError if the tokenizer lacks
        the format's words or has no chat template that the format needs.
        """
        template, digest = prompt_template(self, tokenizer), self.digest()
        questions = []
        for length in self.lengths:
            documents = [
                document_questions(self, template, tokenizer, specs, index=index, seed=seed)
                for index, specs in enumerate(draw_specs(self, template.haystack, length, digest, seed))
            ]
            questions += [question for cell in zip(*documents, strict=True) for question in cell]
        return questions

    @override
    def matches(self, row: SampleRow) -> bool:
        """Whether a row has the grid's format, kind and haystack, by name."""
        return (self.format.name, self.kind, self.haystack.name) == (
            row["task"],
            row["kind"],
            row["haystack"],
        )

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        """Whether the row was drawn with the same format and haystack."""
        return bool(self.digest() == prompt_spec["digest"])

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        prompt = build_prompt(prompt_template(self, tokenizer), prompt_spec)
        chat = tokenizer.uses_chat(self.template)
        return needle_question(self, prompt, chat=chat, index=row["sample_index"], seed=row["seed"])


def read_grid(
    format_path: Path | None,
    *,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    samples: int,
    distractors: int,
    kind: str = SINGLE,
    count: int | None = None,
    haystack: str | None = None,
    values: str | None = None,
    chat: Chat | None = None,
) -> NeedleGrid:
    """A grid with the format of a YAML file, or the shipped one; raises InputError or ConfigError.

    `haystack`, `values` and `chat` replace the format's own; a haystack's path is relative to the working
    directory.
    """
    path = format_path or DEFAULT_FORMAT
    fmt = load_format(path)
    check_needle_kinds([kind])
    fmt.wording(kind)
    if values is not None and values not in GENERATORS:
        raise InputError(
            "no such generator of values", expected=f"one of {', '.join(GENERATORS)}", received=values,
            remedy=did_you_mean(values, GENERATORS),
        )  # fmt: skip
    name, folder = (fmt.haystack, path.parent) if haystack is None else (haystack, Path())
    text = find_haystack(name, folder, lambda: plain_text(fmt, path.parent))
    wanted = 1 if NEEDLE_KINDS[kind].per_depth else count or NEEDLE_KINDS[kind].count
    return NeedleGrid(fmt, text, lengths, depths, samples, distractors, kind, wanted, values, chat)


def plain_text(fmt: NeedleFormat, folder: Path) -> str:
    """The text that fills what needles leave of a haystack made of needles."""
    return read_haystack("prose" if fmt.haystack == NEEDLES else fmt.haystack, folder)


def prompt_template(grid: NeedleGrid, tokenizer: PromptTokenizer) -> PromptTemplate:
    """What the grid's prompt specifications are assembled with."""
    fmt = grid.format
    prefix_ids, suffix_ids = tokenizer.prefix_suffix(chat=tokenizer.uses_chat(grid.template))
    haystack = encoded_haystack(grid.haystack, tokenizer)
    encode = checked_encode(f"format {fmt.name}", tokenizer)
    return PromptTemplate(fmt.wording(grid.kind), grid.pools, encode, haystack, prefix_ids, suffix_ids)


def draw_specs(
    grid: NeedleGrid, haystack: TokenizedHaystack, length: int, digest: str, seed: int
) -> list[list[dict[str, Any]]]:
    """The specifications of each sample's texts: one for all depths, or one per depth, otherwise equal."""
    texts = [grid.depths] if grid.shared else [(depth,) for depth in grid.depths]
    return [
        [
            {
                **draw_prompt_spec(
                    grid.pools,
                    grid.kind,
                    length=length,
                    depths=depths,
                    count=grid.count,
                    distractors=grid.distractors,
                    rng=seeded_generator([seed, length, index]),
                    offsets=haystack.offset_count,
                ),
                "format": grid.format.name,
                "haystack": grid.haystack.name,
                "digest": digest,
            }
            for depths in texts
        ]
        for index in range(grid.samples)
    ]


def document_questions(
    grid: NeedleGrid,
    template: PromptTemplate,
    tokenizer: PromptTokenizer,
    specs: Sequence[dict[str, Any]],
    *,
    index: int,
    seed: int,
) -> list[Question]:
    """All questions of one sample, in the order of the depths."""
    questions = []
    for spec in specs:
        context = build_context(template, spec)
        for number, part in enumerate(context.questions):
            check_answer(part.text, tokenizer)
            prompt = context.prompt(number)
            questions.append(
                needle_question(grid, prompt, chat=tokenizer.uses_chat(grid.template), index=index, seed=seed)
            )
    return questions


def needle_question(grid: NeedleGrid, prompt: NeedlePrompt, *, chat: bool, index: int, seed: int) -> Question:
    """One prompt of a grid; the tokens of its length that the prompt does not use are for the answer."""
    spec = prompt.prompt_spec
    wanted = spec["questions"][spec["asked"]]
    single = NEEDLE_KINDS[grid.kind].per_depth
    scoring = grid.format.scoring if single else "recall"
    answer_tokens = spec["length"] - len(prompt.ids)
    return Question(
        suite=grid.suite,
        task=grid.format.name,
        index=index,
        seed=seed,
        ids=tuple(prompt.ids),
        answer=prompt.answer,
        budget=answer_tokens + (0 if scoring == "exact" else EXTRA_TOKENS),
        scoring=scoring,
        prompt_spec=json_line(spec),
        length=spec["length"],
        depth=round(100 * spec["items"][wanted[0]]["at"], 6) if single else None,
        distractors=len(spec["items"]) - len(wanted),
        kind=grid.kind,
        haystack=grid.haystack.name,
        document=index,
        stop=grid.format.stop,
        chat=chat,
    )
