"""How needles of one kind are worded: templates, and the texts they give for drawn items."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from contextgraft.config.base import Frozen

Item = Mapping[str, Any]  # a needle: "key", "value" or "previous" (the name it takes its value from), "at"

WANTED = {"single": "value", "multi_value": "value", "multi_query": "value", "chain": "key"}
SLOTS: dict[str, dict[str, tuple[str, ...]]] = {  # what each template must contain
    "single": {"needle": ("{key}", "{value}"), "question": ("{key}",), "answer": ("{value}",)},
    "multi_value": {"needle": ("{key}", "{value}"), "question": ("{key}",), "answer": ("{answers}",)},
    "multi_query": {"needle": ("{key}", "{value}"), "question": ("{keys}",), "answer": ("{answers}",)},
    "chain": {
        "needle": ("{key}", "{value}"),
        "link": ("{key}", "{previous}"),
        "question": ("{value}",),
        "answer": ("{answers}",),
    },
}


class Wording(Frozen):
    """Templates of one kind of question. {key} and {value} are of one needle, {keys} and {answers} lists."""

    intro: str = Field(default="", description="begins the prompt, before the haystack")
    needle: str = Field(default="", description="sentence to hide, with {key} and {value}")
    link: str = Field(default="", description="chain: gives {key} the value of {previous}")
    question: str = Field(
        description="ends the prompt, with {key} (multi_value), {keys} (multi_query) or {value} (chain)"
    )
    answer: str = Field(default="{answers}", description="what the model should continue with")
    joiner: str = Field(default=", ", description="stands between the parts of {keys} and {answers}")

    def needle_text(self, item: Item) -> str:
        """The sentence that hides an item."""
        if "previous" in item:
            return replaced(self.link, key=item["key"], previous=item["previous"])
        return replaced(self.needle, key=item["key"], value=item["value"])

    def question_text(self, items: Sequence[Item]) -> str:
        """The question about the items, which ends the prompt."""
        keys = self.joiner.join(item["key"] for item in items)
        return replaced(self.question, key=items[0]["key"], keys=keys, value=items[0]["value"])

    def answer_text(self, kind: str, items: Sequence[Item]) -> str:
        """The expected continuation."""
        found = self.joiner.join(answers(kind, items))
        return replaced(self.answer, key=items[0]["key"], value=items[0]["value"], answers=found)


def answers(kind: str, items: Sequence[Item]) -> list[str]:
    """What must be named: the values, of a chain the names."""
    return [item[WANTED[kind]] for item in items]


def replaced(template: str, **texts: str) -> str:
    """The template with its slots filled; braces that are no slot stay."""
    for slot, text in texts.items():
        template = template.replace(f"{{{slot}}}", text)
    return template


def check_slots(kind: str, wording: Wording) -> None:
    """ValueError if a template of the kind lacks one of its slots."""
    for field, slots in SLOTS[kind].items():
        missing = [slot for slot in slots if slot not in getattr(wording, field)]
        if missing:
            raise ValueError(f"{kind}: {field} must contain {' and '.join(slots)}")
