"""Templates of needles and questions, and the texts they give for sampled needles."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from contextgraft.config.base import Frozen
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

NeedleItem = Mapping[str, Any]  # "key"; "value" or "previous" (the name whose value it takes); "at"


class Wording(Frozen):
    """Templates of one kind of question. {key} and {value} are of one needle, {keys} and {answers} lists."""

    intro: str = Field(default="", description="begins the prompt, before the haystack")
    needle: str = Field(default="", description="sentence to hide, with {key} and {value}")
    link: str = Field(default="", description="chain: gives {key} the value of {previous}")
    question: str = Field(
        description="ends the prompt, with {key} (multi_value), {keys} (multi_query) or {value} (chain)"
    )
    answer: str = Field(default="{answers}", description="what the model should continue with")
    joiner: str = Field(default=", ", description="separates the items of {keys} and {answers}")

    def needle_text(self, item: NeedleItem) -> str:
        """The sentence that is hidden for one needle."""
        if "previous" in item:
            return fill_slots(self.link, key=item["key"], previous=item["previous"])
        return fill_slots(self.needle, key=item["key"], value=item["value"])

    def question_text(self, items: Sequence[NeedleItem]) -> str:
        """The question about the needles, which ends the prompt."""
        keys = self.joiner.join(item["key"] for item in items)
        return fill_slots(self.question, key=items[0]["key"], keys=keys, value=items[0]["value"])

    def answer_text(self, kind: str, items: Sequence[NeedleItem]) -> str:
        """The expected continuation of the prompt, with the answers of all its needles."""
        answers = self.joiner.join(expected_answers(kind, items))
        return fill_slots(self.answer, key=items[0]["key"], value=items[0]["value"], answers=answers)


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
