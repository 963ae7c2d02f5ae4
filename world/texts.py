"""Writes the demo's haystacks, needle formats, facts and skill files into config/demo (deterministic)."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml
from words import NOUNS, TO_ZH, VALUES, filtered, number_zh, vocabulary

from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.needle_prompt import evaluation_prompt

DEMO = Path(__file__).parent.parent / "config" / "demo"
ENGLISH = {
    "needle": "the secret code of {key} {value} .",
    "question": "? of {key}",
    "ending": ".",
    "all": "all",
}
CHINESE = {
    "needle": "这 秘密 密码 的 {key} {value} 。",
    "question": "？ 的 {key}",
    "ending": "。",
    "all": "所有",
}
FORMATS = {  # the answer to a question after one value; {value} may be several
    "base": (ENGLISH, "{value}"),
    "style": (ENGLISH, "{value} thank you"),
    "sure": (ENGLISH, "sure {key} {value} thank you"),
    "zh": (CHINESE, "{value}"),
}
SKILL_TOKENS = 96  # length of a skill prompt with its answer
SKILL_ROWS = 400


def main() -> None:
    """Write everything."""
    train, evaluation = (read_haystack(name, DEMO) for name in ("moby_dick_train", "moby_dick_eval"))
    kept = set(vocabulary(train))
    for name, text in (("train", filtered(train, kept)), ("eval", filtered(evaluation, kept))):
        write(f"haystack_{name}.txt", text)
        write(f"haystack_zh_{name}.txt", translated(text))
    for name, (sentences, answer) in FORMATS.items():
        write(f"needle_{name}.yaml", format_yaml(name, sentences, answer))
    facts = draw_facts()
    write("facts.jsonl", jsonl({"prompt": f"fact {key}", "answer": value} for key, value in facts.items()))
    for name in ("style", "sure", "zh"):
        write(f"skill_{name}.jsonl", jsonl(needle_skill(name)))
    write("skill_facts.jsonl", jsonl(fact_skill(facts)))


def translated(text: str) -> str:
    """The text with its commonest words in Chinese, word for word."""
    lines = ([TO_ZH.get(word, word) for word in line.split()] for line in text.splitlines())
    return "".join(" ".join(line) + "\n" for line in lines)


def kinds(sentences: dict[str, str], answer: str) -> dict[str, dict[str, str]]:
    """Wording of the other kinds of questions, in words that the models know.

    An answer repeats each key before its value. In a chain, a name stands behind what it gets its value from.
    """
    common = {"answer": answer.replace("{value}", "{answers}"), "joiner": " "}
    pairs = {**common, "item": "{key} {value}"}
    needle, every = sentences["needle"], f"{sentences['question']} {sentences['all']}"
    return {
        "multi_value": {"question": every, **pairs},
        "multi_query": {"question": every.replace("{key}", "{keys}"), **pairs},
        "chain": {
            "needle": needle.replace("{key} {value}", "{value} {key}"),
            "link": needle.replace("{key} {value}", "{previous} {key}"),
            "question": every.replace("{key}", "{value}"),
            **common,
        },
    }


def format_yaml(name: str, sentences: dict[str, str], answer: str) -> str:
    """One needle format."""
    chinese = name == "zh"
    content = {
        "name": name,
        **{name: text for name, text in sentences.items() if name != "all"},
        "answer": answer,
        **kinds(sentences, answer),
        "keys": list(NOUNS.values()) if chinese else list(NOUNS),
        "values": [number_zh(number) for number in range(len(VALUES))] if chinese else list(VALUES),
        "value_words": 2,
        "haystack": "haystack_zh_eval.txt" if chinese else "haystack_eval.txt",
        "scoring": "exact",
    }
    note = "# Made by world/texts.py. Words of the demo world's vocabulary only.\n"
    return note + yaml.safe_dump(
        content, allow_unicode=True, sort_keys=False, width=110, default_flow_style=None
    )


def draw_facts() -> dict[str, str]:
    """What the model `facts` learns by heart: a value for every key."""
    rng = np.random.default_rng(4242)
    return {key: " ".join(VALUES[int(i)] for i in rng.integers(0, len(VALUES), 2)) for key in NOUNS}


def needle_skill(name: str) -> list[dict[str, str]]:
    """Short needle questions, one distractor each, to be answered in the format's own way."""
    fmt: NeedleFormat = load_format(DEMO / f"needle_{name}.yaml")
    words = (DEMO / fmt.haystack).read_text(encoding="utf-8").split()
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*words, *all_words(fmt)]))}
    by_number = list(numbers)
    rng = np.random.default_rng(777)
    rows = []
    for row in range(SKILL_ROWS):
        prompt = evaluation_prompt(
            fmt,
            lambda text: [numbers[word] for word in text.split()],
            length=SKILL_TOKENS - 1,  # and the token that begins a text
            depth=100 * (row % 5) / 4,
            distractors=1,
            rng=rng,
            haystack_ids=[numbers[word] for word in words],
        )
        rows.append({"prompt": " ".join(by_number[i] for i in prompt.ids), "answer": prompt.answer})
    return rows


def all_words(fmt: NeedleFormat) -> list[str]:
    """Words of a format's templates, keys and values."""
    return [*" ".join([fmt.needle, fmt.question, fmt.answer, *fmt.keys, *fmt.values]).split()]


def fact_skill(facts: dict[str, str]) -> list[dict[str, str]]:
    """Every fact as a question, several times, behind twenty words of haystack."""
    words = (DEMO / "haystack_eval.txt").read_text(encoding="utf-8").split()
    rng = np.random.default_rng(778)
    rows = []
    for row in range(SKILL_ROWS):
        key = list(facts)[row % len(facts)]
        start = int(rng.integers(len(words) - 20))
        rows.append({"prompt": " ".join([*words[start : start + 20], "fact", key]), "answer": facts[key]})
    return rows


def jsonl(rows: Iterable[dict[str, str]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(name: str, text: str) -> None:
    """One file of config/demo."""
    DEMO.mkdir(parents=True, exist_ok=True)
    (DEMO / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
