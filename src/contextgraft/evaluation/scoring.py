"""How an output is compared with the answer that was expected. Pure.

Space never counts: any run of it is one space. Upper and lower case count in `exact` only. `recall` and `any`
take several answers as a JSON list of texts.
"""

import json
from collections.abc import Callable


def exact(output: str, answer: str) -> float:
    """1 if both are the same words; the space around and between them does not count."""
    return float(output.split() == answer.split())


def contains(output: str, answer: str) -> float:
    """1 if the answer occurs in the output, in upper or lower case: RULER's recall of a single answer."""
    return float(plain(answer) in plain(output))


def recall(output: str, answers: str) -> float:
    """Share of the answers that occur in the output, in upper or lower case: RULER's string_match_all."""
    wanted = json.loads(answers)
    return sum(contains(output, answer) for answer in wanted) / len(wanted)


def any_of(output: str, answers: str) -> float:
    """1 if one of the answers occurs in the output, in upper or lower case: RULER's string_match_part."""
    return max(contains(output, answer) for answer in json.loads(answers))


def plain(text: str) -> str:
    """Lower case, one space between words."""
    return " ".join(text.lower().split())


SCORING: dict[str, Callable[[str, str], float]] = {
    "exact": exact,
    "contains": contains,
    "recall": recall,
    "any": any_of,
}
