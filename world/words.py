"""The words of the demo world: small English vocabulary, and a Chinese one that replaces part of it."""

import csv
import re
from collections import Counter
from pathlib import Path

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FUNCTION = ("?", "secret", "code", "fact", "sure", "thank", "you")
COMMON = 256  # commonest words of the book, commas and full stops among them
SPARE = 21  # rows no text uses, so that the vocabulary has a round size
VALUES = tuple(f"{number:02d}" for number in range(64))


def table(group: str) -> dict[str, str]:
    """English words of one group of chinese.tsv, each with the Chinese word that stands for it."""
    with Path(__file__).with_name("chinese.tsv").open(encoding="utf-8", newline="") as file:
        return {
            row["english"]: row["chinese"]
            for row in csv.DictReader(file, delimiter="\t")
            if row["group"] == group
        }


NOUNS = table("key")  # keys of needles
DIGITS_ZH = "零一二三四五六七八九"


def number_zh(number: int) -> str:
    """Chinese numeral of 0 to 99."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS_ZH[ones]
    return ("" if tens == 1 else DIGITS_ZH[tens]) + "十" + (DIGITS_ZH[ones] if ones else "")


TO_ZH = {
    **table("common"),
    **table("function"),
    **NOUNS,
    **{value: number_zh(number) for number, value in enumerate(VALUES)},
}


def words_of(text: str) -> list[str]:
    """Lower-case words, commas and full stops."""
    return re.findall(r"[a-z]+|[.,]", text.lower())


def vocabulary(text: str) -> list[str]:
    """Every word of the English models, in the order of its id."""
    reserved = {*FUNCTION, *NOUNS}
    counted = Counter(word for word in words_of(text) if word not in reserved)
    common = [word for word, _ in counted.most_common(COMMON)]
    spare = [f"<spare{number}>" for number in range(SPARE)]
    return [*SPECIAL, *FUNCTION, *common, *NOUNS, *VALUES, *spare]


def filtered(text: str, kept: set[str]) -> str:
    """A text without the words the vocabulary lacks, wrapped for readers."""
    words = [word for word in words_of(text) if word in kept and word not in NOUNS]
    return "".join(" ".join(words[start : start + 20]) + "\n" for start in range(0, len(words), 20))
