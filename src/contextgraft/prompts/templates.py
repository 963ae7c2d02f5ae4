"""Templates of needles and questions, and the texts they give for sampled needles."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen
from contextgraft.prompts.generators import GENERATORS, Pool
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

NeedleItem = Mapping[str, Any]  # "key"; "value" or "previous" (the name whose value it takes); "at"


ADDED = ("lead", "item", "keys", "values", "associations")  # fields that older versions did not have


class Wording(Frozen):
    """Templates of one kind of question. {key} and {value} are of one needle, {keys} and {answers} lists."""

    intro: str = Field(default="", description="begins the prompt, before the haystack")
    needle: str = Field(default="", description="sentence to hide, with {key} and {value}")
    link: str = Field(default="", description="chain: gives {key} the value of {previous}")
    question: str = Field(
        description="ends the prompt, with {key} (multi_value), {keys} (multi_query) or {value} (chain)"
    )
    lead: str = Field(
        default="",
        description="begins the answer, behind the question; in a chat it stands in the assistant's turn",
    )
    answer: str = Field(default="{answers}", description="what the model should continue with")
    item: str = Field(
        default="",
        description="one item of {answers}, with {key} and {value}; default: the value, for chains the name",
    )
    joiner: str = Field(default=", ", description="separates the items of {keys} and {answers}")
    keys: tuple[str, ...] | str | None = Field(
        default=None, description="keys of this kind, or their generator; default: the format's"
    )
    values: tuple[str, ...] | str | None = Field(
        default=None, description="values of this kind, or their generator; default: the format's"
    )
    associations: dict[str, str] = Field(
        default={}, description="association: what the needle says, {clue}, for each {key} of a question"
    )

    @model_validator(mode="after")
    def known_pools(self) -> Self:
        """Pools are lists, or names of generators."""
        for name in ("keys", "values"):
            pool = getattr(self, name)
            if isinstance(pool, str) and pool not in GENERATORS:
                raise ValueError(
                    f"{name}: unknown generator {pool!r}; expected one of {', '.join(GENERATORS)}"
                )
        return self

    def needle_text(self, item: NeedleItem) -> str:
        """The sentence that is hidden for one needle."""
        if "previous" in item:
            return fill_slots(self.link, key=item["key"], previous=item["previous"])
        return fill_slots(self.needle, key=item["key"], value=item["value"], clue=item.get("clue", ""))

    def question_text(self, items: Sequence[NeedleItem]) -> str:
        """The question about the needles, with the lead that ends the prompt."""
        return self.filled_question(items) + self.filled_lead(items)

    def filled_question(self, items: Sequence[NeedleItem]) -> str:
        """The question about the needles, without the lead."""
        return self._about(self.question, items)

    def filled_lead(self, items: Sequence[NeedleItem]) -> str:
        """What begins the answer about the needles."""
        return self._about(self.lead, items)

    @property
    def described(self) -> dict[str, Any]:
        """The templates as JSON, for digests; what is not given of newer fields is not part of it."""
        return self.model_dump(exclude={name for name in ADDED if not getattr(self, name)})

    def _about(self, template: str, items: Sequence[NeedleItem]) -> str:
        keys = self.joiner.join(item["key"] for item in items)
        return fill_slots(template, key=items[0]["key"], keys=keys, value=items[0].get("value", ""))

    def answer_text(self, kind: str, items: Sequence[NeedleItem]) -> str:
        """The expected continuation of the prompt, with the answers of all its needles."""
        answers = self.joiner.join(self._answer_items(kind, items))
        return fill_slots(self.answer, key=items[0]["key"], value=items[0]["value"], answers=answers)

    def _answer_items(self, kind: str, items: Sequence[NeedleItem]) -> list[str]:
        if not self.item:
            return expected_answers(kind, items)
        return [fill_slots(self.item, key=item["key"], value=item.get("value", "")) for item in items]


def expected_answers(kind: str, items: Sequence[NeedleItem]) -> list[str]:
    """The values that the answer must name, or the names for a kind that asks for names."""
    return [item[NEEDLE_KINDS[kind].answer_field] for item in items]


def fill_slots(template: str, **texts: str) -> str:
    """The template with its slots filled; other braces stay."""
    for slot, text in texts.items():
        template = template.replace(f"{{{slot}}}", text)
    return template


def check_slots(kind: str, wording: Wording) -> None:
    """ValueError if a template lacks one of the slots that the kind needs."""
    for field, slots in NEEDLE_KINDS[kind].slots.items():
        if any(slot not in getattr(wording, field) for slot in slots):
            raise ValueError(f"{kind}: {field} must contain {' and '.join(slots)}")
    if not wording.item:
        return
    if "{answers}" not in wording.answer:
        raise ValueError(f"{kind}: item has a meaning only where answer contains {{answers}}")
    asked = f"{{{NEEDLE_KINDS[kind].answer_field}}}"
    if asked not in wording.item or (asked == "{key}" and "{value}" in wording.item):
        raise ValueError(f"{kind}: item must contain {asked}{' alone' if asked == '{key}' else ''}")


def check_pools(kind: str, wording: Wording, keys: Pool, values: Pool) -> None:
    """ValueError if the pools of a kind make questions with two answers."""
    if not isinstance(keys, str) and len(set(keys)) < len(keys):
        raise ValueError(f"{kind}: keys must be distinct")
    clues = list(wording.associations.values())
    if len(set(clues)) < len(clues):
        raise ValueError(f"{kind}: the clues of associations must be distinct")
    if NEEDLE_KINDS[kind].answer_field == "key" and (
        keys == values if isinstance(keys, str) or isinstance(values, str) else set(keys) & set(values)
    ):
        raise ValueError(f"{kind}: no key may be a value")
