"""The score of HELMET's recall and of its questions about documents."""

import re
import string
from typing import Any


def substring_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 if one of the expected answers occurs in the output, both without case, punctuation and articles."""
    expected = doc["answers"] if "answers" in doc else [doc["answer"]]
    output = normalised(results[0])
    return {"substring_exact_match": float(any(normalised(answer) in output for answer in expected))}


def normalised(text: str) -> str:
    """Text as SQuAD's scores compare it."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())
